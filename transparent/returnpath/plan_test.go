package returnpath_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"unproxy/transparent/returnpath"
)

var (
	loopback  = returnpath.Reach{Place: returnpath.Loopback, Device: "lo"}
	local     = returnpath.Reach{Place: returnpath.Local, Device: "lo"}
	container = returnpath.Reach{Place: returnpath.Link, Device: "veth0"}
	bridged   = returnpath.Reach{Place: returnpath.Link, Device: "docker0", Forwards: true}
	routed    = returnpath.Reach{Place: returnpath.Routed, Device: "eth0", Router: netip.MustParseAddr("10.0.0.254")}
)

// backend reads "udp 10.9.0.2:25", "10.9.0.0/24" or "[fd09::2]:25-30".
func backend(text string, r returnpath.Reach) returnpath.Backend {
	text, udp := strings.CutPrefix(text, "udp ")
	b := returnpath.Backend{Ports: returnpath.AllPorts, UDP: udp, Reach: r}
	if p, err := netip.ParsePrefix(text); err == nil {
		b.Addr = p
		return b
	}
	i := strings.LastIndexByte(text, ':')
	a := netip.MustParseAddr(strings.Trim(text[:i], "[]"))
	b.Addr = netip.PrefixFrom(a, a.BitLen())
	if n, _ := fmt.Sscanf(text[i:], ":%d-%d", &b.Ports.Low, &b.Ports.High); n == 1 {
		b.Ports.High = b.Ports.Low
	}
	return b
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name     string
		backends []returnpath.Backend
		options  returnpath.Options
		want     string // without the packet filter
		filter   []string
		notes    []string
	}{
		{name: "loopback (recipe A of the design)", backends: []returnpath.Backend{backend("127.0.0.1:2222", loopback),
			backend("[::1]:2222", loopback)}, want: `
ip -6 route replace local default dev lo table 7700
ip route replace local default dev lo table 7700
ip rule add from 127.0.0.1/32 iif lo ipproto tcp sport 2222 lookup 7700 pref 7700 protocol 100
ip -6 rule add from ::1/128 iif lo ipproto tcp sport 2222 lookup 7700 pref 7700 protocol 100
ip rule add from 127.0.0.1/32 iif lo ipproto icmp dport 768-783 lookup 7700 pref 7700 protocol 100
ip -6 rule add from ::1/128 iif lo ipproto ipv6-icmp dport 256-271 lookup 7700 pref 7700 protocol 100`},
		{name: "loopback always uses rules: 127.0.0.0/8 has no output route",
			options:  returnpath.Options{Recipe: returnpath.Marks},
			backends: []returnpath.Backend{backend("127.0.0.1:22", loopback)}, want: `
ip route replace local default dev lo table 7700
ip rule add from 127.0.0.1/32 iif lo ipproto tcp sport 22 lookup 7700 pref 7700 protocol 100
ip rule add from 127.0.0.1/32 iif lo ipproto icmp dport 768-783 lookup 7700 pref 7700 protocol 100`},
		{name: "container that only the gateway reaches (recipe B)",
			backends: []returnpath.Backend{backend("10.9.0.2:25", container), backend("udp 10.9.0.2:53", container)}, want: `
ip route replace local default dev lo table 7700
ip rule add from 10.9.0.2/32 iif veth0 ipproto tcp sport 25 lookup 7700 pref 7700 protocol 100
ip rule add from 10.9.0.2/32 iif veth0 ipproto udp sport 53 lookup 7700 pref 7700 protocol 100
ip rule add from 10.9.0.2/32 iif veth0 ipproto icmp lookup 7700 pref 7700 protocol 100`,
			filter: []string{"chain reassemble {\n\t\t# 10.9.0.2 . udp . 53\n\t\tmeta l4proto udp tproxy to :1\n"}},
		{name: "custom numbers", options: returnpath.Options{Table: 9, Preference: 8, Mark: 7},
			backends: []returnpath.Backend{backend("10.9.0.2:25", container), backend("10.0.0.5:25", local)}, want: `
ip route replace local default dev lo table 9
ip rule add from 10.9.0.2/32 iif veth0 ipproto tcp sport 25 lookup 9 pref 8 protocol 100
ip rule add from 10.9.0.2/32 iif veth0 ipproto icmp lookup 9 pref 8 protocol 100
ip rule add iif lo fwmark 9 lookup 9 pref 8 protocol 100`, filter: []string{"table inet unproxy_7_", "meta mark set 9\n"}},
		{name: "behind a bridge of a host that forwards: a rule would match replies to others",
			backends: []returnpath.Backend{backend("172.17.0.2:80", bridged)}, want: `
ip route replace local default dev lo table 7700
ip rule add iif docker0 fwmark 7700 lookup 7700 pref 7700 protocol 100`,
			filter: []string{"172.17.0.2 . tcp . 80,", `iifname "docker0" ip saddr . meta l4proto . th sport @links4 socket transparent 1 socket wildcard 0 meta mark set 7700`}},
		{name: "another address of this host, to which others talk",
			backends: []returnpath.Backend{backend("[fd00::5]:25", local)}, want: `
ip -6 route replace local default dev lo table 7700
ip -6 rule add iif lo fwmark 7702 lookup 7700 pref 7700 protocol 100`,
			filter: []string{"iif lo ip6 daddr . meta l4proto . th dport @locals6 fib saddr type != local ct mark set 7702",
				"ct direction reply ct mark 7702 meta mark set 7702"}},
		{name: "another address of this host, rules forced", options: returnpath.Options{Recipe: returnpath.Rules},
			backends: []returnpath.Backend{backend("10.0.0.5:25", local)}, want: `
ip route replace local default dev lo table 7700
ip rule add from 10.0.0.5/32 iif lo ipproto tcp sport 25 lookup 7700 pref 7700 protocol 100
ip rule add from 10.0.0.5/32 iif lo ipproto icmp dport 768-783 lookup 7700 pref 7700 protocol 100`, notes: []string{"10.0.0.5:25: rules cannot tell"}},
		{name: "prefix of destinations and a server within it",
			backends: []returnpath.Backend{backend("10.1.0.0/16", container), backend("10.1.0.7:25", container)}, want: `
ip route replace local default dev lo table 7700
ip rule add iif veth0 fwmark 7700 lookup 7700 pref 7700 protocol 100`, filter: []string{"10.1.0.0/16 . tcp . 0-65535,"}},
		{name: "behind a router", backends: []returnpath.Backend{backend("10.5.0.2:25", routed)}, want: `
ip route replace local default dev lo table 7700
ip rule add from 10.5.0.2/32 iif eth0 ipproto tcp sport 25 lookup 7700 pref 7700 protocol 100
ip rule add from 10.5.0.2/32 iif eth0 ipproto icmp lookup 7700 pref 7700 protocol 100
ip rule add from 10.0.0.254/32 iif eth0 ipproto icmp lookup 7700 pref 7700 protocol 100`, notes: []string{"10.5.0.2:25: it is behind the router 10.0.0.254"}},
		{name: "no route to it", backends: []returnpath.Backend{backend("[fd55::2]:25", returnpath.Reach{})},
			notes: []string{"[fd55::2]:25: this host has no route to it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := returnpath.New(tt.backends, nil, tt.options)
			var lines []string
			filter := ""
			for _, c := range p.Commands() {
				if strings.HasPrefix(c, "nft ") {
					filter = c
					continue
				}
				lines = append(lines, c)
			}
			if got := strings.Join(lines, "\n"); got != strings.TrimSpace(tt.want) {
				t.Errorf("commands:\n%s\nwant:\n%s", got, strings.TrimSpace(tt.want))
			}
			if (p.Filter != nil) != (len(tt.filter) > 0) {
				t.Errorf("filter %v, want one: %v", p.Filter, len(tt.filter) > 0)
			}
			contain(t, filter, tt.filter)
			contain(t, fmt.Sprint(p.Notes), tt.notes)
			if len(p.Notes) != len(tt.notes) {
				t.Errorf("notes %v, want %d", p.Notes, len(tt.notes))
			}
			slices.Reverse(tt.backends)
			if again := returnpath.New(tt.backends, nil, tt.options); !slices.Equal(again.Commands(), p.Commands()) {
				t.Errorf("reversed order of backends:\n%s", strings.Join(again.Commands(), "\n"))
			}
		})
	}
}

func contain(t *testing.T, text string, parts []string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in\n%s", part, text)
		}
	}
}

// TestRedirects checks that the rule for the reverse-path lookup comes first, so
// that the lookup does not use the plan's table.
func TestRedirects(t *testing.T) {
	p := returnpath.New(nil, []returnpath.Redirect{
		{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Ports: returnpath.Ports{Low: 1000, High: 2000},
			To: netip.MustParseAddrPort("[::]:2577")},
		{Ports: returnpath.Ports{Low: 25, High: 25}, To: netip.MustParseAddrPort("[::]:2577")},
		{Prefix: netip.MustParsePrefix("2001:db8:7::/64"), Ports: returnpath.AllPorts, UDP: true,
			To: netip.MustParseAddrPort("[fd00::5]:2577")},
	}, returnpath.Options{})
	contain(t, strings.Join(p.Commands(), "\n"), []string{
		"ip rule add iif lo fwmark 7701 lookup main pref 7700 protocol 100\n",
		"ip rule add fwmark 7701 lookup 7700 pref 7701 protocol 100\n",
		"ip -6 rule add fwmark 7701 lookup 7700 pref 7701 protocol 100\n",
		"iifname != \"lo\" fib daddr type local meta l4proto tcp th dport 25 tproxy to :2577 meta mark set 7701 accept\n",
		"ip daddr 203.0.113.0/24 meta l4proto tcp th dport 1000-2000 tproxy ip to :2577 meta mark set 7701 accept\n",
		"ip6 daddr 2001:db8:7::/64 meta l4proto udp tproxy ip6 to [fd00::5]:2577 meta mark set 7701 accept\n",
	})
	if p.Rules[0].Preference != 7700 || p.Rules[len(p.Rules)-1].Preference != 7701 {
		t.Errorf("rules are not in order: %v", p.Rules)
	}
}

// TestFewRules checks that thousands of ports need a few rules only.
func TestFewRules(t *testing.T) {
	scattered := func(host string, n int, r returnpath.Reach) []returnpath.Backend {
		var all []returnpath.Backend
		for i := range n {
			all = append(all, backend(fmt.Sprintf("%s:%d", host, 1000+2*i), r))
		}
		return all
	}
	var adjacent []returnpath.Backend
	for port := range 1000 {
		adjacent = append(adjacent, backend(fmt.Sprintf("127.0.0.1:%d", 21000+port), loopback))
	}
	for _, tt := range []struct {
		name     string
		backends []returnpath.Backend
		rules    int
		note     bool
	}{
		{"adjacent ports", adjacent, 1, false},
		{"scattered ports at the limit", scattered("127.0.0.1", 32, loopback), 32, false},
		{"many on a link: a set", scattered("10.9.0.2", 1000, container), 1, false},
		{"many on their own loopback address: one rule for all ports", scattered("127.0.0.9", 1000, loopback), 1, false},
		{"many on a shared loopback address", scattered("127.0.0.1", 1000, loopback), 1000, true},
	} {
		p := returnpath.New(tt.backends, nil, returnpath.Options{})
		if len(p.Replies().Rules) != tt.rules || (len(p.Notes) > 0) != tt.note {
			t.Errorf("%s: %d rules and notes %v, want %d", tt.name, len(p.Rules), p.Notes, tt.rules)
		}
	}
	p := returnpath.New(adjacent, nil, returnpath.Options{})
	if !strings.Contains(p.Rules[0].String(), " sport 21000-21999 ") {
		t.Errorf("adjacent ports: %v", p.Rules)
	}
}

// TestMergeCovers compares merged ranges with a set of single ports.
func TestMergeCovers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		want := map[string]bool{}
		var all []returnpath.Backend
		for range 1 + random.IntN(12) {
			low := uint16(1 + random.IntN(20))
			b := backend("127.0.0.1:1", loopback)
			b.UDP = random.IntN(4) == 0
			b.Ports = returnpath.Ports{Low: low, High: low + uint16(random.IntN(4))}
			all = append(all, b)
			cover(want, b.UDP, b.Ports)
		}
		got := map[string]bool{}
		for _, r := range returnpath.New(all, nil, returnpath.Options{}).Replies().Rules {
			for port := range cover(map[string]bool{}, r.Protocol == "udp", r.Ports) {
				if got[port] {
					t.Errorf("%v: %s is covered twice", all, port)
				}
				got[port] = true
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%v: %d ports are covered, want %d", all, len(got), len(want))
		}
	}
}

func cover(set map[string]bool, udp bool, p returnpath.Ports) map[string]bool {
	for port := int(p.Low); port <= int(p.High); port++ {
		set[fmt.Sprint(udp, port)] = true
	}
	return set
}

func TestFor(t *testing.T) {
	p := returnpath.New([]returnpath.Backend{
		backend("127.0.0.1:22", loopback), backend("10.9.0.2:25", container), backend("172.17.0.2:80", bridged),
		backend("10.0.0.5:25", local), backend("[::1]:22", loopback), backend("10.5.0.2:25", routed),
	}, nil, returnpath.Options{})
	for _, tt := range []struct {
		address string
		want    []string // prefixes of the commands
	}{
		{"127.0.0.1", []string{"ip route replace", "ip rule add from 127.0.0.1/32", "ip rule add from 127.0.0.1/32 iif lo ipproto icmp"}},
		{"::1", []string{"ip -6 route replace", "ip -6 rule add from ::1/128", "ip -6 rule add from ::1/128 iif lo ipproto ipv6-icmp"}},
		{"10.9.0.2", []string{"ip route replace", "ip rule add from 10.9.0.2/32 iif veth0", "ip rule add from 10.9.0.2/32 iif veth0 ipproto icmp"}},
		{"10.5.0.2", []string{"ip route replace", "ip rule add from 10.5.0.2/32 iif eth0", "ip rule add from 10.5.0.2/32 iif eth0 ipproto icmp",
			"ip rule add from 10.0.0.254/32 iif eth0 ipproto icmp"}},
		{"172.17.0.2", []string{"ip route replace", "ip rule add iif docker0 fwmark", "nft -f"}},
		{"10.0.0.5", []string{"ip route replace", "ip rule add iif lo fwmark", "nft -f"}},
		{"192.0.2.1", nil},
	} {
		got := p.For(netip.MustParseAddr(tt.address)).Commands()
		if len(got) != len(tt.want) {
			t.Errorf("For(%s) = %q, want %d commands", tt.address, got, len(tt.want))
			continue
		}
		for i, begin := range tt.want {
			if !strings.HasPrefix(got[i], begin) {
				t.Errorf("For(%s): %q, want %q", tt.address, got[i], begin)
			}
		}
	}
}

// Rules for redirects and rules for replies are disjoint.
func TestForRedirects(t *testing.T) {
	backends := []returnpath.Backend{backend("127.0.0.1:22", loopback), backend("172.17.0.2:80", bridged)}
	redirects := []returnpath.Redirect{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Ports: returnpath.AllPorts,
		To: netip.MustParseAddrPort("[::]:7000")}}
	p := returnpath.New(backends, redirects, returnpath.Options{})
	alone := returnpath.New(nil, redirects, returnpath.Options{})
	got := p.ForRedirects()
	if want := alone.Commands(); !slices.Equal(got.Commands()[:len(want)-1], want[:len(want)-1]) ||
		got.Filter != p.Filter {
		t.Errorf("ForRedirects() = %q, want %q except for the filter", got.Commands(), want)
	}
	for _, r := range p.For(netip.MustParseAddr("172.17.0.2")).Rules {
		if slices.Contains(got.Rules, r) {
			t.Errorf("%s is in both parts", r)
		}
	}
	if none := returnpath.New(backends, nil, returnpath.Options{}).ForRedirects(); !none.Empty() {
		t.Errorf("ForRedirects() without redirects = %q", none.Commands())
	}
}

// TestFilterName checks that different tables have different names and that a
// gateway finds its table after a restart.
func TestFilterName(t *testing.T) {
	of := func(text string) string {
		return returnpath.New([]returnpath.Backend{backend(text, bridged)}, nil, returnpath.Options{}).Filter.Name()
	}
	first, again, other := of("172.17.0.2:80"), of("172.17.0.2:80"), of("172.17.0.2:81")
	if first != again || first == other {
		t.Errorf("names %s and %s, and %s for another table", first, again, other)
	}
}
