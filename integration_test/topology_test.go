package integration_test

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// place is the location of a backend, relative to the gateway's host.
type place struct {
	name     string
	backends [2]string // of IPv4 and of IPv6
	// forwards: the gateway's host is also a router, so the outsider can reach a
	// backend behind it.
	forwards bool
	// outsiders: the outsider can reach the backend directly.
	outsiders bool
	// host makes the backend's host; nil if it is the gateway's.
	host func(t *testing.T) *lab.Host
}

// places are the topologies with a single gateway.
//
//	outsider                     the gateway's host, the test's
//	eth0 10.0.0.2    ══ net0 10.0.0.1       lo 127.0.0.1, ::1, 198.51.100.5, fd51::5
//	     fd00::2               fd00::1
//	                       back0 10.9.0.1 ══ eth0 10.9.0.2   the backend's host,
//	                             fd09::1          fd09::2    or container
//
// The default route leads to the outsider. Replies without a return path go there.
var places = []place{
	{name: "loopback", backends: [2]string{"127.0.0.1:25", "[::1]:25"}},
	{name: "dedicated address", backends: [2]string{"198.51.100.5:25", "[fd51::5]:25"}},
	{name: "own address", backends: [2]string{"10.0.0.1:25", "[fd00::1]:25"}, outsiders: true},
	{name: "container", backends: [2]string{"10.9.0.2:25", "[fd09::2]:25"}, host: container},
	{name: "container behind a router", backends: [2]string{"10.9.0.2:25", "[fd09::2]:25"}, host: container,
		forwards: true, outsiders: true},
	{name: "container on a bridge", backends: [2]string{"172.17.0.2:25", "[fd17::2]:25"}, host: bridged, forwards: true,
		outsiders: true},
}

// outsider sets up the network of the gateway's host and returns the outsider.
func outsider(t *testing.T) *lab.Host {
	t.Helper()
	h := lab.NewHost(t, "net0", "10.0.0.2/24", "fd00::2/64")
	netns.IP(t, "address add 10.0.0.1/24 dev net0")
	netns.IP(t, "-6 address add fd00::1/64 dev net0 nodad")
	netns.IP(t, "address add 198.51.100.5/32 dev lo")
	netns.IP(t, "-6 address add fd51::5/128 dev lo nodad")
	netns.IP(t, "route add default via 10.0.0.2")
	netns.IP(t, "-6 route add default via fd00::2")
	h.IP(t, "route add default via 10.0.0.1")
	h.IP(t, "-6 route add default via fd00::1")
	return h
}

// container is a host with a direct link to the gateway's host, its default gateway.
func container(t *testing.T) *lab.Host {
	t.Helper()
	h := lab.NewHost(t, "back0", "10.9.0.2/24", "fd09::2/64")
	netns.IP(t, "address add 10.9.0.1/24 dev back0")
	netns.IP(t, "-6 address add fd09::1/64 dev back0 nodad")
	h.IP(t, "route add default via 10.9.0.1")
	h.IP(t, "-6 route add default via fd09::1")
	return h
}

// bridged is a container on a bridge, as with Docker.
func bridged(t *testing.T) *lab.Host {
	t.Helper()
	netns.IP(t, "link add docker0 type bridge")
	netns.IP(t, "address add 172.17.0.1/16 dev docker0")
	netns.IP(t, "-6 address add fd17::1/64 dev docker0 nodad")
	netns.IP(t, "link set docker0 up")
	h := lab.NewHost(t, "back0", "172.17.0.2/16", "fd17::2/64")
	netns.IP(t, "link set back0 master docker0")
	h.IP(t, "route add default via 172.17.0.1")
	h.IP(t, "-6 route add default via fd17::1")
	return h
}

// whoAmI is the configuration of a web server that returns the client's address.
func whoAmI(addresses [2]string) string {
	return fmt.Sprintf(`events { }
		http { %s access_log logs/access;
			server { listen %s; listen %s ipv6only=on; return 200 "hello $remote_addr port $remote_port\n"; }
		}`, lab.NginxTemporary, addresses[0], addresses[1])
}

const whoAsk = "GET / HTTP/1.0\r\n\r\n"

// start starts the backend of a place.
func (p place) start(t *testing.T) {
	t.Helper()
	if h := p.machine(t); h != nil {
		lab.NginxOn(t, h, whoAmI(p.backends))
		return
	}
	lab.Nginx(t, whoAmI(p.backends), p.backends[:]...)
}

// machine makes the backend's host and returns it; nil is the gateway's. If p.forwards,
// the gateway's host becomes a router.
func (p place) machine(t *testing.T) *lab.Host {
	t.Helper()
	if p.host == nil {
		return nil
	}
	if p.forwards {
		netns.Sysctl(t, "net.ipv4.ip_forward", "1")
		netns.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	}
	return p.host(t)
}

// flags returns the flags of a gateway in front of the place.
func (p place) flags() []string {
	return []string{"--forward", "127.0.0.1:2000=" + p.backends[0] + "," + p.backends[1], "--trust", "127.0.0.1",
		"--transparent", "--connect-timeout", "700ms"}
}

// stage sets up the network of the gateway's host, the backends of the places, and one
// gateway with CAP_NET_RAW alone in front of them. It returns when the backends answer
// the gateway's host.
func stage(t *testing.T, flags []string, all ...place) (other *lab.Host, g *lab.Gateway) {
	t.Helper()
	lab.Require(t, "nginx", "nft")
	other = outsider(t)
	for _, p := range all {
		p.start(t)
	}
	g = lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()}, flags...)
	for _, p := range all {
		await.Until(t, "the backends answer the gateway's host", func() bool { return answers(t, p) })
	}
	return other, g
}

// routes runs unproxy routes with the gateway's flags.
func routes(t *testing.T, command string, flags []string) string {
	t.Helper()
	return unproxy(t, append([]string{"routes", command}, flags...)...)
}

// wantSeen sends a request for each client and checks that the backend sees the client.
func wantSeen(t *testing.T, g *lab.Gateway) {
	t.Helper()
	wantSeenAt(t, g, "127.0.0.1:2000")
}

func wantSeenAt(t *testing.T, g *lab.Gateway, listener string) {
	t.Helper()
	for _, client := range []netip.AddrPort{client4, client6} {
		c := lab.Send(t, listener, headerOf(client), []byte(whoAsk))
		reply, err := io.ReadAll(c)
		c.Close()
		if want := fmt.Sprintf("hello %s port %d\n", client.Addr(), client.Port()); err != nil ||
			!strings.HasSuffix(string(reply), want) {
			t.Errorf("the backend answered %q, %v; want %q", reply, err, want)
		}
		g.NextConnection(t).Expect(t, "outcome", "ok", "client", client.String(), "transparent", "true")
	}
}

// wantLost checks that connections of both families fail without a return path.
func wantLost(t *testing.T, g *lab.Gateway) {
	t.Helper()
	for _, client := range []netip.AddrPort{client4, client6} {
		wantEnd(t, lab.Send(t, "127.0.0.1:2000", headerOf(client), []byte(whoAsk)))
		g.NextConnection(t).Expect(t, "outcome", "no_return_path", "client", client.String())
	}
}

// wantDirect checks that the outsider can use the backend without the gateway.
func wantDirect(t *testing.T, from *lab.Host, p place) {
	t.Helper()
	for _, address := range p.backends {
		output, code := lab.Run(t, from.On(lab.Command{Name: lab.Binary(t), Args: []string{
			"probe", "--to", address, "--no-header", "--send", whoAsk, "--timeout", await.Patience.String()}}))
		if code != 0 || !strings.Contains(output, "HTTP/1.1 200 OK") {
			t.Errorf("%s: the outsider got, with exit code %d:\n%s", address, code, output)
		}
	}
}

// In every place, for IPv4 and IPv6: without the routes the log says what is missing.
// With them the backend sees the client, and direct connections to the backend still
// work, with every setting of the reverse path filter. Removing the routes restores the
// host.
func TestTopologies(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				other, g := stage(t, p.flags(), p)
				before := policy(t)
				wantLost(t, g)
				routes(t, "apply", p.flags())
				for _, filter := range []string{"0", "1", "2"} {
					for _, mark := range []string{"0", "1"} {
						reversePath(t, filter, mark)
						wantSeen(t, g)
						if p.outsiders {
							wantDirect(t, other, p)
						}
						if t.Failed() {
							t.Fatalf("with rp_filter %s and src_valid_mark %s", filter, mark)
						}
					}
				}
				routes(t, "remove", p.flags())
				if after := policy(t); after != before {
					t.Errorf("the rules before:\n%sand after:\n%s", before, after)
				}
				wantLost(t, g)
			})
		})
	}
}

// policy returns what a plan changes: rules, local default routes and the packet filter.
func policy(t *testing.T) string {
	t.Helper()
	return netns.IP(t, "rule") + netns.IP(t, "-6 rule") + netns.IP(t, "route show table all default type local") +
		netns.IP(t, "-6 route show table all default type local") + lab.Output(t, "nft", "list", "ruleset")
}

// Backends in several places behind one gateway: their rules do not conflict.
func TestTopologiesTogether(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		own, behind := places[2], places[4]
		flags := append(own.flags(), "--forward", "127.0.0.1:2001="+behind.backends[0]+","+behind.backends[1])
		other, g := stage(t, flags, own, behind)
		routes(t, "apply", flags)
		for _, filter := range []string{"0", "1", "2"} {
			for _, mark := range []string{"0", "1"} {
				reversePath(t, filter, mark)
				wantSeenAt(t, g, "127.0.0.1:2000")
				wantSeenAt(t, g, "127.0.0.1:2001")
				wantDirect(t, other, own)
				wantDirect(t, other, behind)
				if t.Failed() {
					t.Fatalf("with rp_filter %s and src_valid_mark %s", filter, mark)
				}
			}
		}
	})
}

// scripts/routes.sh has the same effect as unproxy routes.
func TestRoutesScript(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				other, g := stage(t, p.flags(), p)
				before := policy(t)
				script := func(action string) (string, int) {
					return lab.Run(t, lab.Command{Name: "../scripts/routes.sh", Args: append([]string{action}, p.backends[:]...)})
				}
				if text, code := script("check"); code != 3 {
					t.Errorf("check before: exit code %d: %s", code, text)
				}
				if text, code := script("apply"); code != 0 {
					t.Fatalf("apply: exit code %d: %s", code, text)
				}
				wantSeen(t, g)
				if p.outsiders {
					wantDirect(t, other, p)
				}
				if text, code := script("apply"); code != 0 || text != "" {
					t.Errorf("apply again: exit code %d: %s", code, text)
				}
				if text, code := script("check"); code != 0 {
					t.Errorf("check after: exit code %d: %s", code, text)
				}
				if text, code := script("remove"); code != 0 || policy(t) != before {
					t.Errorf("remove: exit code %d: %s\nit left:\n%s", code, text, policy(t))
				}
			})
		})
	}
}

// answers reports whether both backends answer the gateway's host. Finding a new IPv6
// neighbour takes a moment.
func answers(t *testing.T, p place) bool {
	for _, address := range p.backends {
		if _, code := lab.RunGateway(t, "probe", "--to", address, "--no-header", "--send", whoAsk,
			"--timeout", "1s"); code != 0 {
			return false
		}
	}
	return true
}

// reversePath sets the reverse path filter of every interface.
func reversePath(t *testing.T, filter, mark string) {
	t.Helper()
	for _, name := range interfaces(t) {
		netns.Sysctl(t, "net.ipv4.conf."+name+".rp_filter", filter)
		netns.Sysctl(t, "net.ipv4.conf."+name+".src_valid_mark", mark)
	}
}

// interfaces returns the interfaces of the test's network, and "all" and "default".
func interfaces(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/sys/net/ipv4/conf")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
