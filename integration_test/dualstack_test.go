package integration_test

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// in returns the loopback address of a's family, with a port.
func in(a netip.AddrPort, port int) string {
	if a.Addr().Is6() {
		return fmt.Sprintf("[::1]:%d", port)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// The address family of the client in the header selects the backend, whatever the
// family of the balancer's connection:
//
//	balancer 127.0.0.1 ──TCP4 or TCP6──▶ gateway :2000 plain       ──▶ 127.0.0.1:3000
//	balancer ::1       ──TCP4 or TCP6──▶ gateway :2001 transparent ──▶ [::1]:3000
func TestClientsFamilyChoosesTheBackend(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backends := map[string]*lab.Backend{}
		for _, address := range []string{"127.0.0.1:3000", "[::1]:3000"} {
			backends[address] = lab.Listen(t, address)
			returnPath(t, address)
		}
		const both = "127.0.0.1:3000,[::1]:3000"
		g := lab.StartGateway(t, "--forward", ":2000="+both, "--forward", ":2001="+both+"?transparent&source-port=keep",
			"--trust", "127.0.0.1", "--trust", "::1")
		var port uint16 = 5000
		for _, balancer := range []netip.AddrPort{client4, client6} {
			for _, client := range []netip.AddrPort{client4, client6} {
				for version, header := range []func(source, destination netip.AddrPort) []byte{
					lab.V1, func(source, destination netip.AddrPort) []byte { return lab.V2(source, destination) },
				} {
					for _, listener := range []int{2000, 2001} {
						port++
						client, destination := netip.AddrPortFrom(client.Addr(), port), dest4
						if client.Addr().Is6() {
							destination = dest6
						}
						from := lab.Send(t, in(balancer, listener), header(client, destination))
						backend := backends[in(client, 3000)]
						server := backend.Next(t)
						got := lab.Peer(server)
						if transparent := listener == 2001; transparent && got != client || !transparent && !got.Addr().IsLoopback() {
							t.Errorf("%v through %s: the backend at %s saw %v", client, in(balancer, listener), backend.Addr, got)
						}
						converse(t, from, server)
						g.NextConnection(t).Expect(t, "outcome", "ok", "client", client.String(), "destination", destination.String(),
							"backend", backend.Addr, "peer", from.LocalAddr().String(), "version", fmt.Sprint(version+1),
							"transparent", fmt.Sprint(listener == 2001), "source", "", "mapped", "")
					}
				}
			}
		}
	})
}

// In plain mode a backend of the other family is used if there is no other:
//
//	balancer ──TCP6──▶ gateway :2000 ──▶ 127.0.0.1:3000
//	balancer ──TCP4──▶ gateway :2001 ──▶ [::1]:3000
func TestPlainFamilyMismatch(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		four, six := lab.Listen(t, "127.0.0.1:3000"), lab.Listen(t, "[::1]:3000")
		g := lab.StartGateway(t, "--forward", ":2000=127.0.0.1:3000", "--forward", ":2001=[::1]:3000", "--trust", "127.0.0.1",
			"--trust", "::1")
		for _, balancer := range []netip.AddrPort{client4, client6} {
			converse(t, lab.Send(t, in(balancer, 2000), lab.V1(client6, dest6)), four.Next(t))
			g.NextConnection(t).Expect(t, "outcome", "ok", "client", client6.String(), "backend", four.Addr,
				"transparent", "false", "mapped", "")
			converse(t, lab.Send(t, in(balancer, 2001), lab.V1(client4, dest4)), six.Next(t))
			g.NextConnection(t).Expect(t, "outcome", "ok", "client", client4.String(), "backend", six.Addr,
				"transparent", "false", "mapped", "")
		}
	})
}

// On a host without IPv6 a listener for both families serves IPv4, also for IPv6
// clients:
//
//	balancer 127.0.0.1 ──▶ gateway :2000 plain, :2001 transparent, :2002 tproxy, :2003 stand-ins ──▶ 127.0.0.1:3000
func TestWithoutIPv6(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const backend = "127.0.0.1:3000"
		server := lab.Listen(t, backend)
		returnPath(t, backend)
		for _, name := range []string{"all", "default", "lo"} {
			netns.Sysctl(t, "net.ipv6.conf."+name+".disable_ipv6", "1")
		}
		for _, tt := range []struct {
			name    string
			command lab.Command
			bound   string
		}{
			{"disabled by sysctl", lab.Command{}, "[::]:2000"},
			{"not in the kernel", lab.Command{WithoutIPv6: true}, "0.0.0.0:2000"},
		} {
			g := lab.StartGatewayAs(t, tt.command, "--trust", "127.0.0.1",
				"--forward", ":2000=[::1]:3000,127.0.0.1:3000",
				"--forward", ":2001=127.0.0.1:3000?transparent",
				"--forward", ":2002=header?tproxy&redirect=:25&allow-destination=127.0.0.1",
				"--forward", ":2003=127.0.0.1:3000?transparent&family-mismatch=map")
			if got := g.Address(t, 0); got != tt.bound {
				t.Errorf("%s: listens on %s, want %s", tt.name, got, tt.bound)
			}
			for _, row := range []struct {
				port   int
				header []byte
				sees   string // what the backend sees; "" is the gateway
			}{
				{2000, lab.V2(client4, dest4), ""},
				{2000, lab.V2(client6, dest6), ""}, // the backend of its own family is unavailable
				{2001, lab.V2(client4, dest4), client4.String()},
				{2002, lab.V2(client4, netip.MustParseAddrPort(backend)), ""},
				{2003, lab.V2(client6, dest6), "244.171.149.255:4711"},
			} {
				from := lab.Send(t, in(client4, row.port), row.header)
				behind := server.Next(t)
				if got := lab.Peer(behind); row.sees != "" && got.String() != row.sees ||
					row.sees == "" && !got.Addr().IsLoopback() {
					t.Errorf("%s, port %d: the backend saw %v, want %s", tt.name, row.port, got, row.sees)
				}
				converse(t, from, behind)
				g.NextConnection(t).Expect(t, "outcome", "ok", "backend", backend)
			}
			wantEnd(t, lab.Send(t, in(client4, 2001), lab.V2(client6, dest6)))
			g.NextConnection(t).Expect(t, "outcome", "family_mismatch", "client", client6.String())
			stop(t, g)
		}
		output, code := lab.Run(t, lab.Command{Name: lab.Binary(t), WithoutIPv6: true,
			Args: []string{"--forward", "[::1]:2000=127.0.0.1:3000", "--trust", "127.0.0.1"}})
		if code != 1 {
			t.Errorf("an IPv6-only listener: exit code %d, %s", code, output)
		}
		wantMatch(t, lab.Line{"output": output}, "output",
			"(?s)listen on .*::1.*:2000: address family not supported.*hint: this host has no IPv6")
	})
}

// stop ends a gateway, so another one can listen on its address.
func stop(t *testing.T, g *lab.Gateway) {
	t.Helper()
	g.Signal(syscall.SIGTERM)
	g.Wait(t)
}
