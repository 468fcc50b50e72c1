package main

import (
	"fmt"
	"net/netip"

	"unproxy/scripts/bench/load"
)

// The parts of the benchmark that run in separate processes. This program runs a part if
// its first argument is one of these words.
const (
	backendPart  = "part-backend"
	tcpRelayPart = "part-relay-tcp"
	udpRelayPart = "part-relay-udp"
)

// The addresses of the gateways and of the backend, for TCP and UDP.
var (
	gatewayAddress = netip.MustParseAddrPort("127.0.0.1:2000")
	backendAddress = netip.MustParseAddrPort("127.0.0.1:3000")
)

func isPart(word string) bool {
	return word == backendPart || word == tcpRelayPart || word == udpRelayPart
}

// playPart runs a part until it fails.
func playPart(part string, args []string) error {
	switch {
	case part == backendPart:
		return load.Serve(backendAddress)
	case part == udpRelayPart:
		return relayUDP(gatewayAddress.String(), backendAddress.String())
	case len(args) == 1:
		return relayTCP(gatewayAddress.String(), backendAddress.String(), args[0] == transparent)
	}
	return fmt.Errorf("%s needs a mode", part)
}
