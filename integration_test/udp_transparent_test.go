package integration_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// The backend sees the client itself, and its replies come back, IPv4 and IPv6:
//
//	lb ──header──▶ gateway 127.0.0.1:2000, CAP_NET_RAW alone ──▶ 127.0.0.1:3000, [::1]:3000
func TestUDPTransparent(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		returnPaths(t, 3000)
		g := lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()},
			"--forward", "udp://127.0.0.1:2000=127.0.0.1:3000,[::1]:3000", "--trust", "127.0.0.1", "--transparent", "--udp-idle-timeout", idle)
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		for _, way := range []struct {
			backend             string
			client, destination netip.AddrPort
		}{{"127.0.0.1:3000", client4, dest4}, {"[::1]:3000", client6, dest6}} {
			backend := lab.ListenUDP(t, way.backend)
			peer.Send(t, gatewayUDP, lab.V2Datagram(way.client, way.destination, "hello"))
			if from := backend.Expect(t, "hello"); from != way.client {
				t.Errorf("the backend saw %v, want %v", from, way.client)
			}
			backend.Reply(t, way.client, "and back")
			peer.Expect(t, "and back")
			connectionOf(t, g, way.client.String()).Expect(t, "outcome", "ok", "transparent", "true", "source", "",
				"backend", way.backend, "protocol", "udp", "datagrams_out", "1", "reason", "")
		}
	})
}

// A source that may not be named is dropped, in every mode, however it is written.
func TestUDPTransparentSourceDenied(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend, peer := lab.ListenUDP(t, "127.0.0.1:3000"), lab.ListenUDP(t, "127.0.0.1:0")
		g := udpGateway(t, "--transparent")
		for _, client := range []string{"127.0.0.1:53", "0.0.0.0:53", "224.0.0.1:53", "255.255.255.255:53", "169.254.1.1:53"} {
			peer.Send(t, gatewayUDP, lab.V2Datagram(netip.MustParseAddrPort(client), dest4, "let me in"))
		}
		peer.Send(t, gatewayUDP, lab.V2Datagram(netip.MustParseAddrPort("[::ffff:127.0.0.1]:53"), dest6, "let me in"))
		line := g.WaitLog(t, "datagrams dropped")
		if !strings.Contains(line.String("detail"), "source_denied") {
			t.Errorf("told %v", line)
		}
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		if from := backend.Expect(t, "hello"); from != client4 { // nothing came before it
			t.Errorf("the backend saw %v, want %v", from, client4)
		}
	})
}

// A balancer that forgot a client sends from another port. The backend sees no
// change, and the replies go where the client spoke from last:
//
//	lb :a ──A──▶ gateway ──A's own address──▶ backend
//	lb :b ──A──▶
func TestUDPTransparentPeerChangesPort(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		returnPaths(t, 3000)
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := udpGateway(t, "--transparent", "--loops", "2")
		for i := range 6 { // on either loop
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

// The known trap: a backend that is bound to 0.0.0.0 lets the kernel choose from
// where a reply leaves, before the rule can look at it. docs/udp.md warns of it;
// should this fail, the warning can go.
func TestUDPTransparentTrap(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		returnPaths(t, 3000)
		backend := lab.ListenUDP(t, "0.0.0.0:3000")
		g := udpGateway(t, "--transparent", "--udp-idle-timeout", "1s")
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		backend.Expect(t, "hello")
		backend.WriteToUDPAddrPort([]byte("lost"), client4) // the system may say so, or not
		g.NextConnection(t).Expect(t, "outcome", "ok", "datagrams_in", "1", "datagrams_out", "0", "reason", "no reply came")
		peer.Empty(t)
	})
}

// The commands of docs/udp.md bring the replies back:
//
//	lb ──header──▶ gateway 127.0.0.1:2000 ──▶ 127.0.0.1:5353
func TestDocumentedReturnPathOfUDP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		_, section, _ := strings.Cut(string(readFile(t, "../docs/udp.md")), "\n## Transparent mode\n")
		_, block, _ := strings.Cut(section, "```sh\n")
		block, _, _ = strings.Cut(block, "```")
		commands := 0
		for _, line := range strings.Split(block, "\n") {
			if command, ok := strings.CutPrefix(line, "ip "); ok {
				netns.IP(t, command)
				commands++
			}
		}
		if commands != 2 {
			t.Fatalf("docs/udp.md has %d commands", commands)
		}
		backend := lab.ListenUDP(t, "127.0.0.1:5353")
		lab.StartGateway(t, "--forward", "udp://127.0.0.1:2000=127.0.0.1:5353", "--trust", "127.0.0.1", "--transparent", "--drain-timeout", "100ms")
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		backend.Reply(t, backend.Expect(t, "hello"), "and back")
		peer.Expect(t, "and back")
	})
}

// The doctor names the trap, and what brings the replies back; it is content when
// both are fixed.
//
//	gateway ──▶ a server on 0.0.0.0:3000, and then on 127.0.0.1:3000
func TestDoctorOfUDP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		flags := []string{"--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--transparent"}
		backend := lab.ListenUDP(t, "0.0.0.0:3000")
		sick := brief(findings(t, lab.Command{}, 3, flags...))
		for _, want := range []string{"backend_wildcard udp://127.0.0.1:3000 warn", "rules_missing udp://127.0.0.1:3000 fail"} {
			if !strings.Contains(sick, want) {
				t.Errorf("the doctor does not say %q:\n%s", want, sick)
			}
		}
		taken(t, prescribed(diagnosed(t, 3, flags...)))
		backend.Close()
		backend = lab.ListenUDP(t, "127.0.0.1:3000")
		healed := brief(findings(t, lab.Command{}, 0, flags...))
		if strings.Contains(healed, "fail") || strings.Contains(healed, "warn") || !strings.Contains(healed, "return_path udp://127.0.0.1:3000 ok") {
			t.Errorf("healed, the doctor says\n%s", healed)
		}
		lab.StartGateway(t, append(flags, "--drain-timeout", "100ms")...)
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		backend.Reply(t, backend.Expect(t, "hello"), "and back")
		peer.Expect(t, "and back")
	})
}
