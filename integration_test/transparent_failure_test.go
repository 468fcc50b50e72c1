package integration_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// test ──header──▶ unproxy ──▶ test 127.0.0.1:25, [::1]:25, without a return path
//
// The most common mistake with transparent mode causes a timeout. Its outcome must differ
// from that of a silent backend, and with the rules connections must work.
func TestTransparentNoReturnPath(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			backend string
			client  netip.AddrPort
		}{{"127.0.0.1:25", client4}, {"[::1]:25", client6}} {
			t.Run(tt.backend, func(t *testing.T) {
				b := lab.Listen(t, tt.backend)
				g := lab.StartGateway(t, transparentFlags(tt.backend, "--connect-timeout", "300ms")...)
				wantEnd(t, lab.Send(t, g.Address(t, 0), append(headerOf(tt.client), "payload"...)))
				g.NextConnection(t).Expect(t, "outcome", "no_return_path", "phase", "dial", "client", tt.client.String(),
					"backend", tt.backend)
				returnPath(t, tt.backend)
				lab.Send(t, g.Address(t, 0), headerOf(tt.client), []byte("payload"))
				c := b.Next(t)
				for lab.Peer(c).Addr().IsLoopback() { // the diagnosis connects, but sends nothing
					wantEnd(t, c)
					c = b.Next(t)
				}
				if got := lab.Peer(c); got != tt.client {
					t.Errorf("with the return path the backend saw %v, want %v", got, tt.client)
				}
				wantRead(t, c, "payload")
			})
		}
	})
}

// test ──header──▶ unproxy ──▶ 192.0.2.80:25, packets to it are dropped
//
// A backend that never answers is not a problem of the return path.
func TestTransparentSilentBackend(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "address add 198.51.100.1/32 dev lo")
		netns.IP(t, "route add 192.0.2.80/32 dev lo src 198.51.100.1") // comes back as a martian, and is dropped
		g := lab.StartGateway(t, transparentFlags("192.0.2.80:25", "--connect-timeout", "300ms")...)
		wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(client4)))
		g.NextConnection(t).Expect(t, "outcome", "connect_timeout", "phase", "dial", "by", "timeout")
	})
}

// test ──header──▶ unproxy ──▶ 127.0.0.1:25, no listener
func TestTransparentRefusingBackend(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g := transparentGateway(t, "127.0.0.1:25")
		wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(client4)))
		g.NextConnection(t).Expect(t, "outcome", "backend_refused", "phase", "dial", "by", "backend")
	})
}

// Without capabilities unproxy must not start, and must say what is missing and how to
// grant it.
func TestTransparentWithoutCapability(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			name  string
			flags []string
			want  string
		}{
			{"transparent", transparentFlags("127.0.0.1:25"), "IP_TRANSPARENT"},
			{"mark", []string{"--forward", "127.0.0.1:0=127.0.0.1:25", "--trust", "127.0.0.1", "--mark", "7"}, "SO_MARK"},
			{"tproxy alone", []string{"--forward", "127.0.0.1:2000=127.0.0.1:25", "--trust", "127.0.0.1",
				"--tproxy", "--redirect", ":25"}, "IP_TRANSPARENT"},
			{"transparent by key", []string{"--forward", "127.0.0.1:0=127.0.0.1:25?transparent=on", "--trust", "127.0.0.1"},
				"IP_TRANSPARENT"},
		} {
			output, code := lab.Run(t, lab.Command{Name: lab.Binary(t), Args: tt.flags, Limit: true})
			if code != 1 && code != 2 {
				t.Errorf("%s: exit code %d, want 1 or 2", tt.name, code)
			}
			for _, want := range []string{"unproxy: error: ", tt.want, "CAP_NET_RAW", "unproxy: hint: ",
				"AmbientCapabilities=CAP_NET_RAW"} {
				if !strings.Contains(output, want) {
					t.Errorf("%s: the output lacks %q: %s", tt.name, want, output)
				}
			}
		}
		// Plain mode needs no capability.
		lab.StartGatewayAs(t, lab.Command{Limit: true}, "--forward", "127.0.0.1:0=127.0.0.1:25", "--trust", "127.0.0.1")
	})
}

// test ──header──▶ unproxy --mark 7 ──▶ test 127.0.0.2:25
//
// Only packets with mark 7 have a route to the backend.
func TestMark(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "rule add to 127.0.0.2 fwmark 7 lookup local pref 100")
		netns.IP(t, "rule add to 127.0.0.2 type unreachable pref 101")
		netns.IP(t, "rule add lookup local pref 200") // moved behind the others, from 0
		netns.IP(t, "rule del pref 0")
		b := lab.Listen(t, "127.0.0.2:25")
		for _, tt := range []struct {
			mark    uint32
			outcome string
		}{{0, "backend_unreachable"}, {8, "backend_unreachable"}, {7, "ok"}} {
			flags := []string{"--forward", "127.0.0.1:0=127.0.0.2:25", "--trust", "127.0.0.1"}
			if tt.mark != 0 {
				flags = append(flags, "--mark", fmt.Sprint(tt.mark))
			}
			g := lab.StartGateway(t, flags...)
			c := lab.Send(t, g.Address(t, 0), headerOf(client4))
			if tt.outcome == "ok" {
				b.Next(t).Close()
			}
			c.CloseWrite()
			g.NextConnection(t).Expect(t, "outcome", tt.outcome)
		}
	})
}

// unproxy with CAP_NET_ADMIN instead of CAP_NET_RAW
func TestTransparentNetAdmin(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const backend = "127.0.0.1:25"
		b := lab.Listen(t, backend)
		returnPath(t, backend)
		g := lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: []uintptr{unix.CAP_NET_ADMIN}},
			transparentFlags(backend)...)
		lab.Send(t, g.Address(t, 0), headerOf(client4))
		if got := lab.Peer(b.Next(t)); got != client4 {
			t.Errorf("the backend saw %v, want %v", got, client4)
		}
	})
}

// test ──header──▶ unproxy ──▶ test 127.0.0.1:25
//
// A header without a client: UNKNOWN is rejected unless --unknown relay is given. LOCAL,
// from the balancer itself, comes from the gateway's address.
func TestTransparentWithoutClient(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		b := lab.Listen(t, "127.0.0.1:25")
		unknown, local := []byte("PROXY UNKNOWN\r\n"), lab.Local()
		for _, tt := range []struct {
			name    string
			header  []byte
			flags   []string
			outcome string
		}{
			{"UNKNOWN", unknown, nil, "no_address"},
			{"UNKNOWN relayed", unknown, []string{"--unknown", "relay"}, "ok"},
			{"LOCAL", local, nil, "ok"},
		} {
			g := transparentGateway(t, "127.0.0.1:25", tt.flags...)
			before := b.Accepted()
			in := lab.Send(t, g.Address(t, 0), tt.header)
			if tt.outcome == "ok" {
				out := b.Next(t)
				if got := lab.Peer(out); !got.Addr().IsLoopback() {
					t.Errorf("%s: the backend saw %v, want the gateway", tt.name, got)
				}
				out.Close()
			}
			in.CloseWrite()
			g.NextConnection(t).Expect(t, "outcome", tt.outcome, "transparent", "false")
			if n := b.Accepted() - before; tt.outcome != "ok" && n != 0 {
				t.Errorf("%s: the backend was contacted %d times", tt.name, n)
			}
		}
	})
}
