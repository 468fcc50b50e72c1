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

// place is where a backend is, as the gateway's host sees it.
type place struct {
	name     string
	backends [2]string // of IPv4 and of IPv6
	// forwards says that the gateway's host is a router as well, which lets
	// the outsider reach a backend behind it.
	forwards bool
	// outsiders says that the outsider reaches the backend by itself.
	outsiders bool
	// host is the backend's, where it is not the gateway's.
	host func(t *testing.T) *lab.Host
}

// places are the topologies of a single gateway.
//
//	outsider                     the gateway's host, the test's
//	eth0 10.0.0.2    ══ net0 10.0.0.1       lo 127.0.0.1, ::1, 198.51.100.5, fd51::5
//	     fd00::2               fd00::1
//	                       back0 10.9.0.1 ══ eth0 10.9.0.2   the backend's host,
//	                             fd09::1          fd09::2    or container
//
// The default route leads to the outsider, who gets what is not routed back.
var places = []place{
	{name: "loopback", backends: [2]string{"127.0.0.1:25", "[::1]:25"}},
	{name: "dedicated address", backends: [2]string{"198.51.100.5:25", "[fd51::5]:25"}},
	{name: "own address", backends: [2]string{"10.0.0.1:25", "[fd00::1]:25"}, outsiders: true},
	{name: "container", backends: [2]string{"10.9.0.2:25", "[fd09::2]:25"}, host: container},
	{name: "container behind a router", backends: [2]string{"10.9.0.2:25", "[fd09::2]:25"}, host: container, forwards: true, outsiders: true},
	{name: "container on a bridge", backends: [2]string{"172.17.0.2:25", "[fd17::2]:25"}, host: bridged, forwards: true, outsiders: true},
}

// outsider makes the network of the gateway's host.
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

// container is a host on a cable of its own, whose way out is the gateway's host.
func container(t *testing.T) *lab.Host {
	t.Helper()
	h := lab.NewHost(t, "back0", "10.9.0.2/24", "fd09::2/64")
	netns.IP(t, "address add 10.9.0.1/24 dev back0")
	netns.IP(t, "-6 address add fd09::1/64 dev back0 nodad")
	h.IP(t, "route add default via 10.9.0.1")
	h.IP(t, "-6 route add default via fd09::1")
	return h
}

// bridged is a container as Docker has them.
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

// whoAmI is a web server that tells its clients who they are.
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

// machine makes the backend's host, to which the gateway's is a router if it is
// to be one; nil is the gateway's.
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

// flags are those of a gateway in front of the place.
func (p place) flags() []string {
	return []string{"--forward", "127.0.0.1:2000=" + p.backends[0] + "," + p.backends[1], "--trust", "127.0.0.1", "--transparent",
		"--connect-timeout", "700ms"}
}

// stage makes the network of the gateway's host, the backends of places, and one
// gateway in front of them, which has CAP_NET_RAW and nothing else. When it
// returns they reach each other.
func stage(t *testing.T, flags []string, all ...place) (other *lab.Host, g *lab.Gateway) {
	t.Helper()
	lab.Require(t, "nginx", "nft")
	other = outsider(t)
	for _, p := range all {
		p.start(t)
	}
	g = lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()}, flags...)
	for _, p := range all {
		await.Until(t, "neighbours know each other", func() bool { return answers(t, p) })
	}
	return other, g
}

// routes runs unproxy routes with the gateway's flags.
func routes(t *testing.T, command string, flags []string) string {
	t.Helper()
	output, code := lab.RunGateway(t, append([]string{"routes", command}, flags...)...)
	if code != 0 {
		t.Fatalf("routes %s: exit code %d: %s", command, code, output)
	}
	return output
}

// wantSeen sends a request for each client and wants the backend to have seen it.
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
		if want := fmt.Sprintf("hello %s port %d\n", client.Addr(), client.Port()); err != nil || !strings.HasSuffix(string(reply), want) {
			t.Errorf("the backend answered %q, %v; want %q", reply, err, want)
		}
		g.NextConnection(t).Expect(t, "outcome", "ok", "client", client.String(), "transparent", "true")
	}
}

// wantLost wants connections of both families to fail without a return path.
func wantLost(t *testing.T, g *lab.Gateway) {
	t.Helper()
	for _, client := range []netip.AddrPort{client4, client6} {
		expectClosed(t, lab.Send(t, "127.0.0.1:2000", headerOf(client), []byte(whoAsk)))
		g.NextConnection(t).Expect(t, "outcome", "no_return_path", "client", client.String())
	}
}

// wantDirect has the outsider use the backend without the gateway.
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

// Every place, IPv4 and IPv6: without routes the log says what is missing, with
// them the backend sees the client, and connections that bypass the gateway still
// work, in every setting of the reverse-path filter. Removing the routes
// leaves the host as it was.
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
					t.Errorf("the rules were\n%sand are\n%s", before, after)
				}
				wantLost(t, g)
			})
		})
	}
}

// policy is what a plan changes: rules, routes that make everything local, and
// the packet filter.
func policy(t *testing.T) string {
	t.Helper()
	return netns.IP(t, "rule") + netns.IP(t, "-6 rule") + netns.IP(t, "route show table all default type local") +
		netns.IP(t, "-6 route show table all default type local") + output(t, "nft", "list", "ruleset")
}

// output runs a program, which must succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	text, code := lab.Run(t, lab.Command{Name: name, Args: args})
	if code != 0 {
		t.Fatalf("%s %s: exit code %d: %s", name, strings.Join(args, " "), code, text)
	}
	return text
}

// Backends in several places behind one gateway: their rules do not meet.
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

// The script that people read before they run it does the same.
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

// answers reports whether both backends answer the gateway's host itself: a new
// IPv6 neighbour takes a moment.
func answers(t *testing.T, p place) bool {
	for _, address := range p.backends {
		if _, code := lab.RunGateway(t, "probe", "--to", address, "--no-header", "--send", whoAsk, "--timeout", "1s"); code != 0 {
			return false
		}
	}
	return true
}

// reversePath sets the reverse-path filter of every interface.
func reversePath(t *testing.T, filter, mark string) {
	t.Helper()
	for _, name := range interfaces(t) {
		netns.Sysctl(t, "net.ipv4.conf."+name+".rp_filter", filter)
		netns.Sysctl(t, "net.ipv4.conf."+name+".src_valid_mark", mark)
	}
}

// interfaces lists those of the test's network, and "all" and "default".
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
