package integration_test

import (
	"net/netip"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// test ──header──▶ unproxy ──▶ test 127.0.0.1:25, [::1]:25
//
// Two concurrent connections with the same client address and port, as through two load
// balancers.
func TestTransparentSamePortTwice(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			backend string
			client  netip.AddrPort
		}{{"127.0.0.1:25", client4}, {"[::1]:25", client6}} {
			b := lab.Listen(t, tt.backend)
			t.Run("prefer "+tt.backend, func(t *testing.T) {
				g := transparentGateway(t, tt.backend)
				for i := range 2 {
					from := lab.Send(t, g.Address(t, 0), headerOf(tt.client), []byte("payload"))
					c := b.Next(t)
					wantRead(t, c, "payload")
					got := lab.Peer(c)
					if got.Addr() != tt.client.Addr() || (got == tt.client) != (i == 0) {
						t.Errorf("connection %d: the backend saw %v; the first must have port %d, the second another one", i, got,
							tt.client.Port())
					}
					if i == 1 {
						from.Close()
						c.Close()
						line := g.NextConnection(t)
						line.Expect(t, "client", tt.client.String())
						if logged := line.AddrPort("source"); logged != got {
							t.Errorf("logged source %v, the backend saw %v", logged, got)
						}
					}
				}
			})
			t.Run("keep "+tt.backend, func(t *testing.T) {
				other := netip.AddrPortFrom(tt.client.Addr(), 4712)
				g := transparentGateway(t, tt.backend, "--source-port", "keep")
				lab.Send(t, g.Address(t, 0), headerOf(other))
				if got := lab.Peer(b.Next(t)); got != other {
					t.Errorf("the backend saw %v, want %v", got, other)
				}
				before := b.Accepted()
				wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(other)))
				g.NextConnection(t).Expect(t, "client", other.String(), "outcome", "source_port_busy", "phase", "dial")
				if n := b.Accepted() - before; n != 0 {
					t.Errorf("%d connections to the backend, want none for a rejected one", n)
				}
			})
			t.Run("any "+tt.backend, func(t *testing.T) {
				g := transparentGateway(t, tt.backend, "--source-port", "any")
				for range 2 {
					lab.Send(t, g.Address(t, 0), headerOf(tt.client))
					if got := lab.Peer(b.Next(t)); anyPort(got) != anyPort(tt.client) || got == tt.client {
						t.Errorf("the backend saw %v, want %v from a port that the kernel chose", got, tt.client.Addr())
					}
				}
			})
		}
	})
}

// test ──header──▶ unproxy with CAP_NET_RAW alone ──▶ test 127.0.0.1:25, [::1]:25
//
// Ports below 1024 need CAP_NET_BIND_SERVICE as well.
func TestTransparentNetRawAlone(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			backend string
			client  netip.AddrPort
		}{{"127.0.0.1:25", client4}, {"[::1]:25", client6}} {
			b := lab.Listen(t, tt.backend)
			returnPath(t, tt.backend)
			privileges := lab.Command{Limit: true, Capabilities: lab.NetRaw()}
			low := netip.AddrPortFrom(tt.client.Addr(), 80)

			g := lab.StartGatewayAs(t, privileges, withoutSelfTest(transparentFlags(tt.backend, "--mark", "7"))...)
			lab.Send(t, g.Address(t, 0), headerOf(tt.client))
			if got := lab.Peer(b.Next(t)); got != tt.client {
				t.Errorf("the backend saw %v, want %v", got, tt.client)
			}
			lab.Send(t, g.Address(t, 0), headerOf(low))
			if got := lab.Peer(b.Next(t)); anyPort(got) != anyPort(low) || got == low {
				t.Errorf("prefer: the backend saw %v, want %v from another port than 80", got, low.Addr())
			}

			g = lab.StartGatewayAs(t, privileges, withoutSelfTest(transparentFlags(tt.backend, "--source-port", "keep"))...)
			wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(low)))
			g.NextConnection(t).Expect(t, "client", low.String(), "outcome", "permission", "phase", "dial")

			g = transparentGateway(t, tt.backend, "--source-port", "keep")
			lab.Send(t, g.Address(t, 0), headerOf(low))
			if got := lab.Peer(b.Next(t)); got != low {
				t.Errorf("with CAP_NET_BIND_SERVICE the backend saw %v, want %v", got, low)
			}
		}
	})
}
