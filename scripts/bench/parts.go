package main

import (
	"fmt"
	"net/netip"

	"unproxy/scripts/bench/load"
)

// The parts that this program plays in processes of their own, where it is started
// with one of these words.
const (
	backendPart  = "part-backend"
	tcpRelayPart = "part-relay-tcp"
	udpRelayPart = "part-relay-udp"
)

// Where the gateways listen and where they lead, TCP and UDP alike.
var (
	gatewayAddress = netip.MustParseAddrPort("127.0.0.1:2000")
	backendAddress = netip.MustParseAddrPort("127.0.0.1:3000")
)

func isPart(word string) bool {
	return word == backendPart || word == tcpRelayPart || word == udpRelayPart
}

// playPart plays a part until it fails.
func playPart(part string, args []string) error {
	switch {
	case part == backendPart:
		return load.Serve(backendAddress)
	case part == udpRelayPart:
		return relayUDP(gatewayAddress.String(), backendAddress.String())
	case len(args) == 1:
		return relayTCP(gatewayAddress.String(), backendAddress.String(), args[0] == transparent)
	}
	return fmt.Errorf("%s takes a mode", part)
}
