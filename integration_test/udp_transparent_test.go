package integration_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// The backend sees the client, and its replies return, for IPv4 and IPv6:
//
//	lb ──header──▶ gateway 127.0.0.1:2000, CAP_NET_RAW alone ──▶ 127.0.0.1:3000, [::1]:3000
func TestUDPTransparent(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		returnPath(t, "udp://127.0.0.1:3000", "udp://[::1]:3000")
		g := lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()},
			"--forward", "udp://127.0.0.1:2000=127.0.0.1:3000,[::1]:3000", "--trust", "127.0.0.1",
			"--transparent", "--udp-idle-timeout", idle)
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		for _, path := range []struct {
			backend             string
			client, destination netip.AddrPort
		}{{"127.0.0.1:3000", client4, dest4}, {"[::1]:3000", client6, dest6}} {
			backend := lab.ListenUDP(t, path.backend)
			peer.Send(t, gatewayUDP, lab.V2Datagram(path.client, path.destination, "hello"))
			if from := backend.Expect(t, "hello"); from != path.client {
				t.Errorf("the backend saw %v, want %v", from, path.client)
			}
			backend.Reply(t, path.client, "and back")
			peer.Expect(t, "and back")
			g.ConnectionOf(t, path.client.String()).Expect(t, "outcome", "ok", "transparent", "true", "source", "",
				"backend", path.backend, "protocol", "udp", "datagrams_out", "1", "reason", "")
		}
	})
}

// Datagrams with a denied source are dropped, however the header encodes it.
func TestUDPTransparentSourceDenied(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend, peer := lab.ListenUDP(t, "127.0.0.1:3000"), lab.ListenUDP(t, "127.0.0.1:0")
		g := udpGateway(t, "--transparent")
		for _, client := range []string{"127.0.0.1:53", "0.0.0.0:53", "224.0.0.1:53", "255.255.255.255:53",
			"169.254.1.1:53"} {
			peer.Send(t, gatewayUDP, lab.V2Datagram(netip.MustParseAddrPort(client), dest4, "let me in"))
		}
		peer.Send(t, gatewayUDP, lab.V2Datagram(netip.MustParseAddrPort("[::ffff:127.0.0.1]:53"), dest6, "let me in"))
		line := g.WaitLog(t, "datagrams dropped")
		if !strings.Contains(line.String("detail"), "source_denied") {
			t.Errorf("logged %v", line)
		}
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		if from := backend.Expect(t, "hello"); from != client4 { // no other datagram came before it
			t.Errorf("the backend saw %v, want %v", from, client4)
		}
	})
}

// A balancer that lost its state sends from another port. The backend sees no change,
// and replies go to the last port:
//
//	lb :a ──A──▶ gateway ──A's own address──▶ backend
//	lb :b ──A──▶
func TestUDPTransparentPeerChangesPort(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		returnPath(t, "udp://127.0.0.1:3000", "udp://[::1]:3000")
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := udpGateway(t, "--transparent", "--loops", "2")
		for i := range 6 { // uses both loops
			peer := lab.ListenUDP(t, "127.0.0.1:0")
			peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, fmt.Sprint(i)))
			if from := backend.Expect(t, fmt.Sprint(i)); from != client4 {
				t.Errorf("the backend saw %v, want %v", from, client4)
			}
			backend.Reply(t, client4, fmt.Sprint("re ", i))
			peer.Expect(t, fmt.Sprint("re ", i))
		}
		for range 5 {
			g.NextConnection(t).Expect(t, "outcome", "ok", "by", "peer", "client", client4.String(), "source", "")
		}
	})
}

// A known trap: for a backend bound to 0.0.0.0 the kernel chooses the source address of a
// reply before the rule applies. docs/udp.md warns of it. If this test fails, remove the
// warning.
func TestUDPTransparentWildcardBackendLosesReplies(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		returnPath(t, "udp://127.0.0.1:3000", "udp://[::1]:3000")
		backend := lab.ListenUDP(t, "0.0.0.0:3000")
		g := udpGateway(t, "--transparent", "--udp-idle-timeout", "1s")
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		backend.Expect(t, "hello")
		backend.WriteToUDPAddrPort([]byte("lost"), client4) // may fail or be lost
		g.NextConnection(t).Expect(t, "outcome", "ok", "datagrams_in", "1", "datagrams_out", "0", "reason", "no reply came")
		peer.Empty(t)
	})
}

// The commands in docs/udp.md set up the return path:
//
//	lb ──header──▶ gateway 127.0.0.1:2000 ──▶ 127.0.0.1:5353
func TestDocumentedReturnPathOfUDP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, command := range documentedCommands(t, "udp.md", "Transparent mode") {
			netns.IP(t, command)
		}
		backend := lab.ListenUDP(t, "127.0.0.1:5353")
		lab.StartGateway(t, "--forward", "udp://127.0.0.1:2000=127.0.0.1:5353", "--trust", "127.0.0.1",
			"--transparent", "--drain-timeout", "100ms")
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		backend.Reply(t, backend.Expect(t, "hello"), "and back")
		peer.Expect(t, "and back")
	})
}

// The doctor warns of the trap and prints the commands for the return path. When both are
// fixed, it finds no problem.
//
//	gateway ──▶ a server on 0.0.0.0:3000, then on 127.0.0.1:3000
func TestDoctorOfUDP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		flags := []string{"--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--transparent"}
		backend := lab.ListenUDP(t, "0.0.0.0:3000")
		broken := brief(findings(t, lab.Command{}, 3, flags...))
		for _, want := range []string{"backend_wildcard udp://127.0.0.1:3000 warn",
			"rules_missing udp://127.0.0.1:3000 fail"} {
			if !strings.Contains(broken, want) {
				t.Errorf("the doctor does not find %q:\n%s", want, broken)
			}
		}
		lab.Shell(t, prescribed(diagnosed(t, 3, flags...)))
		backend.Close()
		backend = lab.ListenUDP(t, "127.0.0.1:3000")
		fixed := brief(findings(t, lab.Command{}, 0, flags...))
		if strings.Contains(fixed, "fail") || strings.Contains(fixed, "warn") ||
			!strings.Contains(fixed, "return_path udp://127.0.0.1:3000 ok") {
			t.Errorf("after the fix the doctor finds\n%s", fixed)
		}
		lab.StartGateway(t, append(flags, "--drain-timeout", "100ms")...)
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		backend.Reply(t, backend.Expect(t, "hello"), "and back")
		peer.Expect(t, "and back")
	})
}
