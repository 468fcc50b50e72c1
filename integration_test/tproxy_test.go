package integration_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// tproxyScene has three hosts in a row. The test's own is the gateway's:
//
//	balancer               gateway's host                        servers
//	10.1.0.2 ── lb0 ── 10.1.0.1  unproxy :7000  10.2.0.1 ── srv0 ── 10.2.0.2, all of 10.2.1.0/24 and 203.0.112.0/21
//	fd01::2            fd01::1                  fd02::1             fd02::2,  all of fd02:1::/64 and 2001:db8:110::/44
//
// The gateway's host routes what is not diverted.
type tproxyScene struct {
	balancer, servers *lab.Host
}

func newTProxyScene(t *testing.T) *tproxyScene {
	t.Helper()
	lab.Require(t, "nft", "nsenter", "unshare")
	s := &tproxyScene{
		balancer: lab.NewHost(t, "lb0", "10.1.0.2/24", "fd01::2/64"),
		servers:  lab.NewHost(t, "srv0", "10.2.0.2/24", "fd02::2/64"),
	}
	netns.Sysctl(t, "net.ipv4.ip_forward", "1")
	netns.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	for _, command := range []string{
		"address add 10.1.0.1/24 dev lb0", "-6 address add fd01::1/64 dev lb0 nodad",
		"address add 10.2.0.1/24 dev srv0", "-6 address add fd02::1/64 dev srv0 nodad",
	} {
		netns.IP(t, command)
	}
	for _, command := range []string{"route add default via 10.1.0.1", "-6 route add default via fd01::1"} {
		s.balancer.IP(t, command)
	}
	for _, command := range []string{
		"route add default via 10.2.0.1", "-6 route add default via fd02::1",
	} {
		s.servers.IP(t, command)
	}
	for _, prefix := range []string{"10.2.1.0/24", "203.0.112.0/21"} {
		netns.IP(t, "route add "+prefix+" via 10.2.0.2")
		s.servers.IP(t, "route add local "+prefix+" dev lo")
	}
	for _, prefix := range []string{"fd02:1::/64", "2001:db8:110::/44"} {
		netns.IP(t, "-6 route add "+prefix+" via fd02::2")
		s.servers.IP(t, "-6 route add local "+prefix+" dev lo")
	}
	return s
}

// tproxyListener is the forward of the scene.
const tproxyListener = ":7000=header?tproxy&redirect=203.0.113.0/24:1000-2000&redirect=[2001:db8:113::/48]:1000-2000&redirect=:20000-29999"

// tproxyRules returns the documented rules that divert connections to tproxyListener.
func tproxyRules(t *testing.T) string {
	t.Helper()
	if documentation := string(readFile(t, "../docs/transparent.md")); !strings.Contains(documentation,
		"'"+tproxyListener+"'") {
		t.Fatalf("docs/transparent.md does not have the listener %s", tproxyListener)
	}
	return documentedScript(t, "transparent.md", "Rules for the listener")
}

// listen starts a server on a port of all addresses of the servers' host.
func (s *tproxyScene) listen(t *testing.T, port int) (b *lab.Backend) {
	t.Helper()
	s.servers.Do(t, func() { b = lab.Listen(t, fmt.Sprintf(":%d", port)) })
	return b
}

// send connects from the balancer.
func (s *tproxyScene) send(t *testing.T, address string, pieces ...[]byte) (c *net.TCPConn) {
	t.Helper()
	s.balancer.Do(t, func() { c = lab.Send(t, address, pieces...) })
	return c
}

// refuses checks that a connection from the balancer is refused.
func (s *tproxyScene) refuses(t *testing.T, address string) {
	t.Helper()
	s.balancer.Do(t, func() {
		c, err := net.DialTimeout("tcp", address, await.Patience)
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("connect to %s: %v, want it refused", address, err)
		}
	})
}

// reached returns the address at which a server accepted c.
func reached(c net.Conn) netip.AddrPort {
	a := c.LocalAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// converse sends data in both directions and closes the connection, the server first.
func converse(t *testing.T, client, server *net.TCPConn) {
	t.Helper()
	write(t, client, []byte("question"))
	wantRead(t, server, "question")
	write(t, server, []byte("answer"))
	wantRead(t, client, "answer")
	server.Close()
	wantClosed(t, client)
	client.Close()
}

// One listener receives connections to ranges of ports and to prefixes. Each goes to the
// server that its header names, which sees the client. Other connections through the
// host are not affected.
func TestTProxyPreservesDestinations(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newTProxyScene(t)
		servers := map[uint16]*lab.Backend{25: s.listen(t, 25), 1500: s.listen(t, 1500)}
		g := lab.StartGateway(t, "--forward", tproxyListener, "--trust", "10.1.0.2", "--trust", "fd01::2", "--transparent",
			"--allow-destination", "10.2.0.0/16", "--allow-destination", "fd02::/16")
		rows := []struct{ sent, to string }{
			{"203.0.113.7:1000", "10.2.0.2:25"},
			{"203.0.113.255:2000", "10.2.1.1:25"},
			{"203.0.113.0:1501", "10.2.1.254:1500"},
			{"10.1.0.1:20000", "10.2.0.2:1500"},
			{"10.2.0.1:29999", "10.2.1.7:1500"},
			{"[2001:db8:113::7]:1000", "[fd02::2]:25"},
			{"[2001:db8:113:ffff::]:2000", "[fd02:1::1]:25"},
			{"[fd01::1]:20000", "[fd02:1::ffff]:1500"},
			{"[fd02::1]:29999", "[fd02::2]:1500"},
			{"203.0.113.7:1001", "[fd02:1::6]:25"},    // an IPv6 client through IPv4
			{"[2001:db8:113::7]:1001", "10.2.1.4:25"}, // and the reverse
		}
		for _, row := range rows {
			s.refuses(t, row.sent) // without the rules the gateway does not get it
		}
		lab.Shell(t, tproxyRules(t))
		for i, row := range rows {
			to, client := netip.MustParseAddrPort(row.to), netip.AddrPortFrom(client4.Addr(), uint16(5000+i))
			if to.Addr().Is6() {
				client = netip.AddrPortFrom(client6.Addr(), client.Port())
			}
			from := s.send(t, row.sent, lab.V2(client, to))
			server := servers[to.Port()].Next(t)
			if got := reached(server); got != to || lab.Peer(server) != client {
				t.Errorf("sent to %s, for %v: %v arrived at %v, want %v", row.sent, to, lab.Peer(server), got, client)
			}
			converse(t, from, server)
			g.NextConnection(t).Expect(t, "outcome", "ok", "forward", ":7000", "peer", from.LocalAddr().String(),
				"client", client.String(),
				"destination", row.to, "backend", row.to, "transparent", "true", "source", "", "mapped", "")
		}
		for _, address := range []string{
			"203.0.113.7:999", "203.0.113.7:2001", "203.0.113.7:7000", "203.0.114.7:1000", "10.1.0.1:30000", "10.2.0.1:19999",
			"[2001:db8:113::7]:999", "[2001:db8:113::7]:7000", "[2001:db8:114::7]:1000", "[fd01::1]:30000",
		} {
			s.refuses(t, address)
		}
		for _, address := range []string{"10.2.0.2:1500", "[fd02:1::9]:1500"} { // through the host, not the gateway
			from := s.send(t, address)
			server := servers[1500].Next(t)
			if got := lab.Peer(server); got.String() != from.LocalAddr().String() {
				t.Errorf("directly connected to %s the balancer is %v, want %v", address, got, from.LocalAddr())
			}
			converse(t, from, server)
		}
	})
}

// The rules of unproxy routes and those of the documentation work with every setting of
// the kernel's source validation.
func TestTProxyReversePath(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newTProxyScene(t)
		server := s.listen(t, 25)
		flags := []string{"--forward", tproxyListener, "--trust", "10.1.0.2", "--trust", "fd01::2", "--transparent",
			"--allow-destination", "10.2.0.0/16", "--allow-destination", "fd02::/16"}
		g := lab.StartGateway(t, flags...)
		var port uint16 = 5000
		type path struct {
			sent, to string
			client   netip.Addr
		}
		paths := []path{
			{"203.0.113.7:1000", "10.2.1.7:25", client4.Addr()},
			{"[2001:db8:113::7]:1000", "[fd02:1::7]:25", client6.Addr()},
			{"10.1.0.1:20000", "10.2.0.2:25", client4.Addr()},
		}
		for _, prepare := range []func(){
			func() { routes(t, "apply", flags) },
			func() { routes(t, "remove", flags); lab.Shell(t, tproxyRules(t)) },
		} {
			prepare()
			for i := range 12 {
				senderChecks(t, i%3, i/3%2, i/6)
				for _, p := range paths {
					port++
					client := netip.AddrPortFrom(p.client, port)
					from := s.send(t, p.sent, lab.V2(client, netip.MustParseAddrPort(p.to)))
					behind := server.Next(t)
					if got := lab.Peer(behind); got != client {
						t.Errorf("the server at %s saw %v, want %v", p.to, got, client)
					}
					converse(t, from, behind)
					g.NextConnection(t).Expect(t, "outcome", "ok")
				}
			}
		}
	})
}

// senderChecks configures the kernel's source validation.
func senderChecks(t *testing.T, filter, validMark, acceptMark int) {
	t.Helper()
	t.Logf("rp_filter=%d src_valid_mark=%d tcp_fwmark_accept=%d", filter, validMark, acceptMark)
	for _, name := range []string{"all", "lb0", "srv0"} {
		netns.Sysctl(t, "net.ipv4.conf."+name+".rp_filter", fmt.Sprint(filter))
	}
	netns.Sysctl(t, "net.ipv4.conf.all.src_valid_mark", fmt.Sprint(validMark))
	netns.Sysctl(t, "net.ipv4.tcp_fwmark_accept", fmt.Sprint(acceptMark))
}

// The documented removal of the rules leaves nothing behind.
func TestTProxyRulesRemoved(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nft")
		before := rules(t)
		lab.Shell(t, tproxyRules(t))
		if rules(t) == before {
			t.Error("the script did not add rules")
		}
		lab.Shell(t, documentedScript(t, "transparent.md",
			"Removing the rules for the listener")+`[ -z "$(nft list ruleset)" ]`)
		if after := rules(t); after != before {
			t.Errorf("the rules before:\n%sand after:\n%s", before, after)
		}
	})
}

// A listener on loopback, which is unreachable from outside, works too:
//
//	tproxy ip to 127.0.0.1:7000, tproxy ip6 to [::1]:7000
func TestTProxyToLoopback(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newTProxyScene(t)
		server := s.listen(t, 25)
		g := lab.StartGateway(t, "--trust", "10.1.0.2", "--trust", "fd01::2", "--allow-destination", "10.2.0.0/16",
			"--allow-destination", "fd02::/16",
			"--forward", "127.0.0.1:7000=header?tproxy&redirect=203.0.113.0/24:1000-2000",
			"--forward", "[::1]:7000=header?tproxy&redirect=[2001:db8:113::/48]:1000-2000")
		lab.Shell(t, strings.NewReplacer(
			"tproxy ip to :7000", "tproxy ip to 127.0.0.1:7000",
			"tproxy ip6 to :7000", "tproxy ip6 to [::1]:7000",
			"fib daddr type local tcp dport 20000-29999 tproxy to :7000",
			"meta nfproto ipv4 fib daddr type local tcp dport 20000-29999 tproxy ip to 127.0.0.1:7000",
		).Replace(tproxyRules(t)))
		for _, row := range []struct{ sent, to, forward string }{
			{"203.0.113.7:1000", "10.2.1.7:25", "127.0.0.1:7000"},
			{"10.1.0.1:20000", "10.2.1.7:25", "127.0.0.1:7000"},
			{"[2001:db8:113::7]:1000", "[fd02:1::7]:25", "[::1]:7000"},
		} {
			client := client4
			if netip.MustParseAddrPort(row.to).Addr().Is6() {
				client = client6
			}
			from := s.send(t, row.sent, lab.V2(client, netip.MustParseAddrPort(row.to)))
			converse(t, from, server.Next(t))
			g.NextConnection(t).Expect(t, "outcome", "ok", "forward", row.forward, "backend", row.to, "client", client.String())
		}
		s.refuses(t, "10.1.0.1:7000")
		s.refuses(t, "[fd01::1]:7000")
	})
}
