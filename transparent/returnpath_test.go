package transparent_test

import (
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/netns"
	"unproxy/transparent"
)

func TestSameHost(t *testing.T) {
	p := transparent.SameHost([]netip.AddrPort{
		ap("127.0.0.1:2222"), ap("[::1]:2222"), ap("127.0.0.1:25"), ap("127.0.0.1:2222"), ap("[::ffff:127.0.0.1]:25"),
	}, 7700, 7701)
	want := `ip route replace local default dev lo table 7700
ip -6 route replace local default dev lo table 7700
ip rule add from 127.0.0.1/32 iif lo ipproto tcp sport 2222 lookup 7700 pref 7701
ip -6 rule add from ::1/128 iif lo ipproto tcp sport 2222 lookup 7700 pref 7701
ip rule add from 127.0.0.1/32 iif lo ipproto tcp sport 25 lookup 7700 pref 7701
`
	if got := p.String(); got != want {
		t.Errorf("return path:\n%swant:\n%s", got, want)
	}
	if got := (transparent.ReturnPath{}).String(); got != "" {
		t.Errorf("the empty return path prints %q", got)
	}
}

// table returns all rules, and the routes of table 7700, as iproute2 sees them.
func table(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, command := range []string{"rule show", "-6 rule show", "route show table all type local", "-6 route show table all type local"} {
		all.WriteString(netns.IP(t, command))
	}
	return all.String()
}

// TestApply holds Apply against iproute2 itself: both must leave the same
// rules and routes, and Remove must leave what was there before.
func TestApply(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		p := transparent.SameHost([]netip.AddrPort{ap("127.0.0.1:2222"), ap("[::1]:2222"), ap("192.0.2.5:25")}, 7700, 7700)
		before := table(t)
		for line := range strings.Lines(p.String()) {
			netns.IP(t, strings.TrimPrefix(line, "ip "))
		}
		byCommand := table(t)
		for range 2 {
			if err := p.Apply(); err != nil {
				t.Fatal(err)
			}
			if got := table(t); got != byCommand {
				t.Errorf("after Apply on top of the commands:\n%swant:\n%s", got, byCommand)
			}
		}
		for range 2 {
			if err := p.Remove(); err != nil {
				t.Fatal(err)
			}
			if got := table(t); got != before {
				t.Errorf("after Remove:\n%swant:\n%s", got, before)
			}
		}
		if err := p.Apply(); err != nil {
			t.Fatal(err)
		}
		if got := table(t); got != byCommand {
			t.Errorf("after Apply alone:\n%swant:\n%s", got, byCommand)
		}
	})
}

// TestRemoveLeavesOthers has two gateways share a table.
func TestRemoveLeavesOthers(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		one := transparent.SameHost([]netip.AddrPort{ap("127.0.0.1:25"), ap("[::1]:25")}, 7700, 7700)
		two := transparent.SameHost([]netip.AddrPort{ap("127.0.0.1:26")}, 7700, 7700)
		if err := two.Apply(); err != nil {
			t.Fatal(err)
		}
		want := table(t)
		if err := one.Apply(); err != nil {
			t.Fatal(err)
		}
		if err := one.Remove(); err != nil {
			t.Fatal(err)
		}
		if got := table(t); got != want {
			t.Errorf("after one left:\n%swant the other's:\n%s", got, want)
		}
	})
}

// TestReturnPathMends is the twin of TestBind without rules: the connect hangs,
// and comes through as soon as the return path is there.
//
// lo:  backends 127.0.0.1:25, [::1]:25
func TestReturnPathMends(t *testing.T) {
	for _, tt := range []struct{ name, backend, source, other string }{
		{"IPv4", "127.0.0.1:25", "203.0.113.9:4711", "127.0.0.1:26"},
		{"IPv6", "[::1]:25", "[2001:db8::9]:4711", "[::1]:26"},
		{"stand-in for IPv6", "127.0.0.1:25", "240.1.2.3:4711", "127.0.0.1:26"},
		{"stand-in for IPv4", "[::1]:25", "[64:ff9b::203.0.113.9]:4711", "[::1]:26"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				l := listenWithoutReturn(t, tt.backend)
				listen(t, tt.other) // whose path must not help l
				c := newClient(t, ap(tt.source))
				c.giveUpAfterOneSYN()
				if errno := transparent.Bind(transparent.System{}, c.fd, ap(tt.source)); errno != 0 {
					t.Fatal(errno)
				}
				if errno := c.connect(l.addr); errno == 0 {
					t.Fatal("connected without a return path")
				}
				if err := l.returnPath().Apply(); err != nil {
					t.Fatal(err)
				}
				connectFrom(t, ap(tt.source), l.addr)
				if got := l.seen(); got != ap(tt.source) {
					t.Errorf("the backend saw %v, want %v", got, tt.source)
				}
			})
		})
	}
}

func TestLoopbackUp(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "link set lo down")
		for range 2 {
			if err := transparent.LoopbackUp(); err != nil {
				t.Fatal(err)
			}
			if got := netns.IP(t, "link show lo up"); !strings.Contains(got, "lo") {
				t.Errorf("lo is not up: %q", got)
			}
		}
	})
}
