package integration_test

import (
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

const (
	thisListener    = "destination is this listener"
	anotherListener = "destination is another listener of this gateway"
)

// to is a header that names a destination, from a client of its family.
func to(t *testing.T, destination string) []byte {
	t.Helper()
	d := netip.MustParseAddrPort(destination)
	if d.Addr().Is6() {
		return lab.V2(client6, d)
	}
	return lab.V2(client4, d)
}

// lb ──header──▶ unproxy :2000 ──✗ its admin endpoint, its other forwards, itself
//
// No destination leads to what the process itself listens on, by whatever address of
// the host. What else is on the host is reached.
func TestHeaderReachesNoServiceOfTheGateway(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "address add 198.51.100.5/32 dev lo")
		netns.IP(t, "address add 2001:db8:5::5/128 dev lo nodad")
		netns.IP(t, "route add local 192.0.2.0/24 dev lo")
		flags := []string{"--trust", "127.0.0.1", "--drain-timeout", "100ms",
			"--allow-destination", "127.0.0.0/8", "--allow-destination", "198.51.100.5", "--allow-destination", "192.0.2.0/24",
			"--allow-destination", "::/0",
			"--forward", ":2000=header", "--forward", ":2001=127.0.0.1:3000", "--forward", ":4000-4004=127.0.0.1:3000",
			"--forward", "127.0.0.1:2002=127.0.0.1:3000", "--admin", adminAt}
		for _, tt := range []struct{ destination, reason string }{
			{adminAt, anotherListener},
			{"127.0.0.1:2001", anotherListener},
			{"127.3.3.3:2001", anotherListener},
			{"198.51.100.5:2001", anotherListener},
			{"192.0.2.77:2001", anotherListener}, // AnyIP
			{"[::1]:2001", anotherListener},
			{"[2001:db8:5::5]:2001", anotherListener},
			{"127.0.0.1:2002", anotherListener},
			{"127.0.0.1:4003", anotherListener},
			{"127.0.0.1:2000", thisListener},
			{"192.0.2.1:2000", thisListener},
			{"[64:ff9b::127.0.0.1]:9180", "NAT64 form of a denied IPv4 address"},
			{"[::ffff:127.0.0.1]:9180", anotherListener},
			{"[2002:7f00:1::1]:2001", "6to4 form of a denied IPv4 address"},
			{"[::]:9180", "destination address or port is zero"},
		} {
			// A gateway each: it would sample so many refusals.
			g := lab.StartGateway(t, flags...)
			wantEnd(t, lab.Send(t, "127.0.0.1:2000", append(to(t, tt.destination), "GET /metrics HTTP/1.0\r\n\r\n"...)))
			g.NextConnection(t).Expect(t, "outcome", "destination_denied", "reason", tt.reason, "backend", "")
			stop(t, g)
		}
		g := lab.StartGateway(t, flags...)
		for _, destination := range []string{"127.0.0.1:3001", "198.51.100.5:3001", "192.0.2.77:3001", "[::1]:3001", "127.0.0.1:4005"} {
			b := lab.Listen(t, destination)
			lab.Send(t, "127.0.0.1:2000", to(t, destination), []byte("payload")).CloseWrite()
			c := b.Next(t)
			wantRead(t, c, "payload")
			c.Close()
			g.NextConnection(t).Expect(t, "outcome", "ok", "backend", destination)
		}
	})
}

// A fixed backend may be another listener of the same process: forwards are chained.
//
//	lb ──two headers──▶ unproxy :2000 ──one header──▶ the same process :2001 ──▶ 127.0.0.1:3000
func TestForwardsMayBeChained(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		b := lab.Listen(t, "127.0.0.1:3000")
		lab.StartGateway(t, "--trust", "127.0.0.1", "--forward", "127.0.0.1:2000=127.0.0.1:2001",
			"--forward", "127.0.0.1:2001=127.0.0.1:3000")
		lab.Send(t, "127.0.0.1:2000", headerOf(client4), headerOf(client4), []byte("payload")).CloseWrite()
		wantRead(t, b.Next(t), "payload")
	})
}

// The process that takes over knows the sockets that it inherits, and the admin
// endpoint, as its own.
func TestHeaderReachesNoServiceAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		l := startLine(t, lab.Command{}, "--trust", "127.0.0.1", "--allow-destination", "127.0.0.0/8", "--admin", adminAt,
			"--forward", "127.0.0.1:2000=header", "--forward", "127.0.0.1:0=127.0.0.1:3000")
		other := l.Address(t, 1)
		l.upgrade()
		for _, destination := range []string{adminAt, other, "127.0.0.1:2000"} {
			reason := anotherListener
			if destination == "127.0.0.1:2000" {
				reason = thisListener
			}
			wantEnd(t, lab.Send(t, "127.0.0.1:2000", append(to(t, destination), "GET /metrics HTTP/1.0\r\n\r\n"...)))
			l.NextConnection(t).Expect(t, "outcome", "destination_denied", "reason", reason)
		}
		l.end()
	})
}

// lb ──header──▶ unproxy udp :2000 ──✗ its other UDP forwards
func TestUDPHeaderReachesNoServiceOfTheGateway(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend, peer := lab.ListenUDP(t, "127.0.0.1:2001"), lab.ListenUDP(t, "127.0.0.1:0")
		loop := lab.ListenUDP(t, "127.0.0.1:3000") // behind the other forward
		g := lab.StartGateway(t, "--trust", "127.0.0.1", "--drain-timeout", "100ms", "--allow-destination", "127.0.0.0/8",
			"--allow-destination", "224.0.0.0/8", "--allow-destination", "64:ff9b::/96",
			"--forward", "udp://127.0.0.1:2000=header", "--forward", "udp://:2002=127.0.0.1:3000",
			"--forward", "127.0.0.1:2001=127.0.0.1:3000")
		lab.WaitReceiving(t, gatewayUDP)
		inner := string(lab.V2Datagram(other4, dest4, "forged"))
		for _, destination := range []string{"127.0.0.1:2002", "127.5.5.5:2002", "127.0.0.1:2000", "224.0.0.1:2002"} {
			peer.Send(t, gatewayUDP, lab.V2Datagram(client4, netip.MustParseAddrPort(destination), inner))
		}
		peer.Send(t, gatewayUDP, lab.V2Datagram(client6, netip.MustParseAddrPort("[64:ff9b::127.0.0.1]:2002"), inner))
		if line := g.WaitLog(t, "datagrams dropped"); !strings.Contains(line.String("detail"), "destination_denied") {
			t.Errorf("logged %v", line)
		}
		// The TCP listener on the same port is no obstacle.
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, netip.MustParseAddrPort("127.0.0.1:2001"), "hello"))
		backend.Expect(t, "hello")
		loop.Empty(t)
	})
}
