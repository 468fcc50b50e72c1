package integration_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// inlineFlags returns the flags of a gateway in the path to the servers. Its listener
// may connect to half of the addresses that are diverted to it, and to the gateway's
// own.
func inlineFlags(flags ...string) []string {
	all := []string{"--forward", tproxyListener}
	for _, rule := range []string{"203.0.113.0/25", "2001:db8:113::/49", "10.0.0.0/8", "fd01::/16", "127.0.0.0/8"} {
		all = append(all, "--allow-destination", rule)
	}
	return append(all, flags...)
}

// Without a destination from a header, a connection goes to its original destination.
func TestTProxyOriginalDestination(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newTProxyScene(t)
		server := s.listen(t, 1000)
		lab.Shell(t, tproxyRules(t))
		local, unknown := string(lab.Local()), "PROXY UNKNOWN\r\n"
		trust := []string{"--trust", "10.1.0.2", "--trust", "fd01::2"}
		pass := []string{"--trust", "192.0.2.1", "--untrusted", "pass"}
		for _, tt := range []struct {
			name   string
			flags  []string
			header string
			from   [2]string // the address that the server sees, for each family; "" is the balancer's
		}{
			{"no header", append(pass, "--transparent"), "", [2]string{"", ""}},
			{"no header, plain", pass, "", [2]string{"10.2.0.1", "fd02::1"}},
			{"LOCAL", append(trust, "--transparent"), local, [2]string{"10.2.0.1", "fd02::1"}},
			{"LOCAL, plain", trust, local, [2]string{"10.2.0.1", "fd02::1"}},
			{"UNKNOWN", append(trust, "--transparent", "--unknown", "relay"), unknown, [2]string{"10.2.0.1", "fd02::1"}},
		} {
			g := lab.StartGateway(t, inlineFlags(tt.flags...)...)
			for i, sent := range []string{"203.0.113.77:1000", "[2001:db8:113::77]:1000"} {
				from := s.send(t, sent, []byte(tt.header))
				behind := server.Next(t)
				want := tt.from[i]
				if got := lab.Peer(behind); reached(behind).String() != sent || want != "" && got.Addr().String() != want ||
					want == "" && got.String() != from.LocalAddr().String() {
					t.Errorf("%s to %s: %v arrived at %v", tt.name, sent, got, reached(behind))
				}
				converse(t, from, behind)
				g.NextConnection(t).Expect(t, "outcome", "ok", "client", from.LocalAddr().String(), "destination", sent,
					"backend", sent)
			}
			stop(t, g)
		}
	})
}

// Destinations that are not allowed, or are the listener itself, are rejected:
//
//	balancer ──▶ 10.1.0.1:7000 the listener ──✗ 10.1.0.1:7000
func TestTProxyForbiddenDestinations(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newTProxyScene(t)
		server := s.listen(t, 1000)
		lab.Shell(t, tproxyRules(t))
		const denied, loop = "destination not allowed", "destination is this listener"
		name := func(to string) []byte { return lab.V2(client4, netip.MustParseAddrPort(to)) }
		for _, tt := range []struct {
			sent   string
			header []byte // nil: an untrusted peer that passes
			reason string
		}{
			{"203.0.113.177:1000", nil, denied},
			{"[2001:db8:113:8000::]:1000", nil, denied},
			{"10.1.0.1:7000", nil, loop},
			{"10.2.0.1:7000", nil, loop},
			{"[fd01::1]:7000", nil, loop},
			{"203.0.113.7:1000", name("203.0.113.177:1000"), denied},
			{"203.0.113.7:1000", name("10.2.0.1:7000"), loop},
			{"10.1.0.1:7000", name("127.0.0.1:7000"), loop},
		} {
			flags := []string{"--trust", "192.0.2.1", "--untrusted", "pass"}
			if tt.header != nil {
				flags = []string{"--trust", "10.1.0.2"}
			}
			g := lab.StartGateway(t, inlineFlags(flags...)...)
			s.rejected(t, tt.sent, tt.header)
			line := g.NextConnection(t)
			line.Expect(t, "outcome", "destination_denied", "phase", "dial", "by", "gateway", "reason", tt.reason, "backend", "")
			if tt.header == nil {
				line.Expect(t, "destination", tt.sent)
			}
			stop(t, g)
		}
		if n := server.Accepted(); n != 0 {
			t.Errorf("the server was contacted %d times", n)
		}
		// Without tproxy the original destination is unknown.
		g := lab.StartGateway(t, "--forward", "10.1.0.1:7000=header", "--trust", "192.0.2.1", "--untrusted", "pass",
			"--allow-destination", "10.0.0.0/8")
		s.rejected(t, "10.1.0.1:7000", nil)
		g.NextConnection(t).Expect(t, "outcome", "no_address", "destination", "")
	})
}

// rejected checks that a connection from the balancer is reset.
func (s *tproxyScene) rejected(t *testing.T, address string, header []byte) {
	t.Helper()
	source := "10.1.0.2"
	if netip.MustParseAddrPort(address).Addr().Is6() {
		source = "fd01::2"
	}
	s.balancer.Do(t, func() { wantRejected(t, source, address, header) })
}

// Many concurrent connections to different addresses and ports: each arrives at its
// original destination.
func TestTProxyUnderLoad(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const workers, each = 16, 60
		s := newTProxyScene(t)
		lab.Shell(t, tproxyRules(t))
		ports := []int{1000, 1001, 1500, 2000}
		s.servers.Do(t, func() {
			for _, port := range ports {
				tellAddresses(t, fmt.Sprintf(":%d", port))
			}
		})
		lab.StartGateway(t, inlineFlags("--trust", "192.0.2.1", "--untrusted", "pass",
			"--transparent", "--access-log", "off")...)
		var running sync.WaitGroup
		for worker := range workers {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			running.Go(func() {
				s.balancer.Do(t, func() {
					for range each {
						a := netip.AddrFrom4([4]byte{203, 0, 113, byte(random.IntN(128))})
						if random.IntN(2) == 0 {
							a = netip.MustParseAddr(fmt.Sprintf("2001:db8:113::%x", 1+random.IntN(1<<16-1)))
						}
						askWho(t, netip.AddrPortFrom(a, uint16(ports[random.IntN(len(ports))])))
					}
				})
			})
		}
		running.Wait()
	})
}

// tellAddresses starts a server that returns the client's address and its own.
func tellAddresses(t *testing.T, address string) {
	lab.Serve(t, address, func(c net.Conn) { fmt.Fprintf(c, "%v at %v", lab.Peer(c), reached(c)) })
}

// askWho checks that such a server answers at address and sees the caller's address.
func askWho(t *testing.T, address netip.AddrPort) {
	c, err := net.DialTimeout("tcp", address.String(), await.Patience)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(await.Deadline(t))
	got, err := io.ReadAll(c)
	if want := fmt.Sprintf("%v at %v", c.LocalAddr(), address); string(got) != want || err != nil {
		t.Errorf("%q answered, %v; want %q", got, err, want)
	}
}
