package integration_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// switched joins hosts by a switch, br0, which is in the test's own network; the
// test has the addresses 10.9.0.254 and fd09::fe on it.
func switched(t *testing.T) {
	t.Helper()
	netns.IP(t, "link add br0 type bridge")
	netns.IP(t, "address add 10.9.0.254/24 dev br0")
	netns.IP(t, "-6 address add fd09::fe/64 dev br0 nodad")
	netns.IP(t, "link set br0 up")
}

// plugged returns a host on the switch, with a number for its addresses.
func plugged(t *testing.T, number int) *lab.Host {
	t.Helper()
	name := fmt.Sprintf("port%d", number)
	h := lab.NewHost(t, name, fmt.Sprintf("10.9.0.%d/24", number), fmt.Sprintf("fd09::%x/64", number))
	netns.IP(t, "link set "+name+" master br0")
	return h
}

// mac returns the hardware address of a host.
func mac(t *testing.T, h *lab.Host) string {
	t.Helper()
	_, rest, _ := strings.Cut(h.IP(t, "-o link show eth0"), "link/ether ")
	address, _, _ := strings.Cut(rest, " ")
	return address
}

// gatewayOn starts a transparent gateway on a host, in front of the backends.
func gatewayOn(t *testing.T, h *lab.Host, backends string) *lab.Gateway {
	t.Helper()
	flags := []string{"--forward", ":2000=" + backends, "--trust", "10.9.0.254", "--transparent", "--connect-timeout", "700ms"}
	onHost(t, h, append([]string{lab.Binary(t), "routes", "apply"}, flags...)...)
	return lab.StartGatewayOn(t, h, flags...)
}

// onHost runs a program on a host, which must succeed.
func onHost(t *testing.T, h *lab.Host, words ...string) string {
	t.Helper()
	text, code := lab.Run(t, h.On(lab.Command{Name: words[0], Args: words[1:]}))
	if code != 0 {
		t.Fatalf("%s: exit code %d: %s", strings.Join(words, " "), code, text)
	}
	return text
}

// gateways 10.9.0.5 and 10.9.0.6, router 10.9.0.1, backend 10.9.0.2; the peer is
// the test, 10.9.0.254. All have IPv6 as well.
//
//	peer ═╦═ gateway 5
//	      ╠═ gateway 6
//	      ╠═ router       whom the backend's default route leads to
//	      ╚═ backend
//
// The replies of each connection return through the gateway that it came from,
// for every client. When one gateway goes away the sessions of the other go
// on. Who comes by the router is not touched.
func TestTwoGateways(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nft")
		switched(t)
		router, backend := plugged(t, 1), plugged(t, 2)
		hosts := []*lab.Host{plugged(t, 5), plugged(t, 6)}
		backend.IP(t, "route add default via 10.9.0.1")
		backend.IP(t, "-6 route add default via fd09::1")
		echoOn(t, backend, "10.9.0.2:25", "[fd09::2]:25")
		const backends = "10.9.0.2:25,[fd09::2]:25"
		gateways := []*lab.Gateway{gatewayOn(t, hosts[0], backends), gatewayOn(t, hosts[1], backends)}
		await.Until(t, "the routers and gateways have IPv6 neighbours", func() bool {
			ok := true
			for _, h := range append(hosts, router) {
				_, code := lab.Run(t, h.On(lab.Command{Name: lab.Binary(t), Args: []string{"probe", "--to", "[fd09::2]:25", "--no-header", "--timeout", "1s"}}))
				ok = ok && code == 0
			}
			return ok
		})
		for i, g := range gateways {
			expectClosed(t, lab.Send(t, fmt.Sprintf("10.9.0.%d:2000", 5+i), headerOf(client4), []byte("lost")))
			g.NextConnection(t).Expect(t, "outcome", "no_return_path")
		}
		script := onHost(t, hosts[0], lab.Binary(t), "routes", "print", "--backend-host",
			"--gateway", "10.9.0.5+fd09::5", "--gateway", "10.9.0.6+fd09::6="+mac(t, hosts[1]),
			"--forward", ":2000="+backends, "--trust", "10.9.0.254", "--transparent")
		for range 2 { // a second run must do no harm
			lab.Run(t, backend.On(lab.Command{Name: "sh", Args: []string{"-c", script}}))
		}
		for _, filter := range []string{"0", "1", "2"} {
			for _, mark := range []string{"0", "1"} {
				for _, name := range []string{"all", "eth0"} {
					backend.Sysctl(t, "net.ipv4.conf."+name+".rp_filter", filter)
					backend.Sysctl(t, "net.ipv4.conf."+name+".src_valid_mark", mark)
				}
				for _, c := range throughBoth(t) {
					c.Close()
				}
			}
		}
		sessions := throughBoth(t)
		onHost(t, router, lab.Binary(t), "probe", "--to", "10.9.0.2:25", "--no-header", "--timeout", await.Patience.String())
		hosts[0].IP(t, "link set eth0 down")
		for i, c := range sessions {
			if i%2 == 1 { // through gateway 6
				write(t, c, []byte("still there"))
				wantRead(t, c, "still there")
			}
		}
	})
}

// echoOn starts backends on a host that say who connects and send everything back.
func echoOn(t *testing.T, h *lab.Host, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		lab.Start(t, h.On(lab.Command{Name: lab.Binary(t), Args: []string{"probe", "--listen", address}})).
			WaitLine(t, "listening on "+address)
	}
}

// The same with a tunnel from each gateway to the backend's host, which has
// addresses of its own, 10.7.0.2 and fd07::2, and a strict reverse-path filter.
//
//	peer ═╦═ gateway 5 ──tunnel to5──╖
//	      ╠═ gateway 6 ──tunnel to6──╢
//	      ╚════════════════════════ backend
func TestTwoGatewaysByTunnel(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nft")
		switched(t)
		backend := plugged(t, 2)
		backend.IP(t, "address add 10.7.0.2/32 dev lo")
		backend.IP(t, "-6 address add fd07::2/128 dev lo")
		backend.IP(t, "route add default via 10.9.0.254")
		backend.IP(t, "-6 route add default via fd09::fe")
		for _, name := range []string{"all", "eth0"} {
			backend.Sysctl(t, "net.ipv4.conf."+name+".rp_filter", "1")
		}
		const backends = "10.7.0.2:25,[fd07::2]:25"
		echoOn(t, backend, strings.Split(backends, ",")...)
		for _, number := range []int{5, 6} {
			h := plugged(t, number)
			backend.Tunnel(t, fmt.Sprintf("to%d", number), h, "tunnel")
			backend.IP(t, fmt.Sprintf("address add 10.6.0.%d/32 dev to%d", number, number))
			h.IP(t, "route add 10.7.0.2/32 dev tunnel")
			h.IP(t, "-6 route add fd07::2/128 dev tunnel")
			gatewayOn(t, h, backends)
			if number == 6 {
				script := onHost(t, h, lab.Binary(t), "routes", "print", "--backend-host", "--gateway", "dev:to5", "--gateway", "dev:to6",
					"--forward", ":2000="+backends, "--trust", "10.9.0.254", "--transparent")
				backend.Shell(t, script)
			}
		}
		for _, c := range throughBoth(t) {
			c.Close()
		}
	})
}

// throughBoth opens connections for an IPv4 and an IPv6 client through either
// gateway in turn, and wants each to carry something there and back.
func throughBoth(t *testing.T) []net.Conn {
	t.Helper()
	var all []net.Conn
	for i, client := range []netip.AddrPort{client4, client4, client6, client6} {
		at := netip.AddrPortFrom(client.Addr(), client.Port()+uint16(i))
		c := lab.Send(t, fmt.Sprintf("10.9.0.%d:2000", 5+i%2), headerOf(at), []byte("there and back"))
		wantRead(t, c, "there and back")
		all = append(all, c)
	}
	return all
}
