package trust

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"unproxy/integration_test/allocations"
)

// randomAddr returns an address close to others: its leading bytes take few
// values.
func randomAddr(r *rand.Rand) netip.Addr {
	narrow := func() byte { return byte(r.IntN(4)) << 6 }
	switch r.IntN(5) {
	case 0, 1:
		return netip.AddrFrom4([4]byte{narrow(), narrow(), byte(r.Uint32()), byte(r.Uint32())})
	case 2:
		var b [16]byte
		copy(b[10:], []byte{0xff, 0xff, narrow(), narrow(), byte(r.Uint32()), byte(r.Uint32())})
		return netip.AddrFrom16(b)
	}
	var b [16]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	b[0], b[1], b[2] = narrow(), narrow(), narrow()
	return netip.AddrFrom16(b)
}

// randomRules returns n rules with masked prefixes of every length.
func randomRules(r *rand.Rand, n int) []Rule {
	rules := make([]Rule, n)
	for i := range rules {
		a := randomAddr(r).Unmap()
		p, _ := a.Prefix(r.IntN(a.BitLen() + 1))
		if p.Bits() < 3 && n > 1 { // else large sets contain everything
			p, _ = a.Prefix(3 + r.IntN(a.BitLen()-2))
		}
		rules[i] = Rule{Prefix: p, Text: p.String()}
	}
	return rules
}

// lookupByScan is Lookup by linear scan.
func lookupByScan(rules []Rule, a netip.Addr) (Rule, bool) {
	var best Rule
	found := false
	for _, r := range rules {
		if r.Prefix.Contains(a.Unmap()) && (!found || r.Prefix.Bits() > best.Prefix.Bits()) {
			best, found = r, true
		}
	}
	return best, found
}

func TestSetMatchesScan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	hits := 0
	for round := range 300 {
		rules := randomRules(r, 1+r.IntN(40))
		set := NewSet(rules)
		for range 100 {
			a := randomAddr(r)
			if r.IntN(3) == 0 { // the edges of a prefix
				a = edge(r, rules[r.IntN(len(rules))].Prefix)
			}
			want, in := lookupByScan(rules, a)
			if got := set.Contains(a); got != in {
				t.Fatalf("round %d: Contains(%v) = %v among %v", round, a, got, rules)
			}
			if got, ok := set.Lookup(a); ok != in || got.Prefix != want.Prefix {
				t.Fatalf("round %d: Lookup(%v) = %v, %v, want %v", round, a, got, ok, want)
			}
			if in {
				hits++
			}
		}
	}
	if hits < 1000 || hits > 29000 {
		t.Errorf("%d of 30000 addresses are in their set: the sample is too one-sided", hits)
	}
}

// edge returns the first or last address of p, or the one before or after.
func edge(r *rand.Rand, p netip.Prefix) netip.Addr {
	first := p.Addr()
	b := first.AsSlice()
	for i := p.Bits(); i < first.BitLen(); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	for _, a := range []netip.Addr{first, last, first.Prev(), last.Next()}[r.IntN(4):] {
		if a.IsValid() {
			return a
		}
	}
	return first
}

func TestSetNearestMatchesScan(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		rules := randomRules(r, 1+r.IntN(12))
		a := randomAddr(r)
		got, ok := NewSet(rules).Nearest(a)
		// shared counts common leading bits, one by one.
		shared := func(p netip.Prefix) int {
			for n := p.Bits(); n >= 0; n-- {
				if netip.PrefixFrom(p.Addr(), n).Contains(a.Unmap()) {
					return n
				}
			}
			return -1
		}
		best, any := -1, false
		for _, rule := range rules {
			best = max(best, shared(rule.Prefix))
			any = any || rule.Prefix.Addr().BitLen() == a.Unmap().BitLen()
		}
		if ok != any || ok && shared(got.Prefix) != best {
			t.Fatalf("Nearest(%v) = %v, %v among %v; want one with %d bits in common", a, got, ok, rules, best)
		}
	}
}

// Of two rules with equally many common bits, the shorter prefix is nearer.
func TestSetNearestTie(t *testing.T) {
	set := NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.128.0.0/24")},
		{Prefix: netip.MustParsePrefix("10.128.0.0/16")}, {Prefix: netip.MustParsePrefix("10.129.0.0/20")}})
	if got, _ := set.Nearest(netip.MustParseAddr("10.0.0.1")); got.Prefix != netip.MustParsePrefix("10.128.0.0/16") {
		t.Errorf("Nearest = %v, want 10.128.0.0/16", got.Prefix)
	}
}

func TestSetEdges(t *testing.T) {
	all := NewSet([]Rule{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("::/0")}})
	six := NewSet([]Rule{{Prefix: netip.MustParsePrefix("::/0")}})
	four := NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}})
	tests := []struct {
		name string
		set  *Set
		addr netip.Addr
		want bool
	}{
		{"nil", nil, netip.MustParseAddr("10.0.0.1"), false},
		{"zero value", &Set{}, netip.MustParseAddr("10.0.0.1"), false},
		{"zero value, IPv6", &Set{}, netip.MustParseAddr("::1"), false},
		{"invalid address", all, netip.Addr{}, false},
		{"4-in-6 is IPv4", four, netip.MustParseAddr("::ffff:10.0.0.1"), true},
		{"4-in-6 is not IPv6", six, netip.MustParseAddr("::ffff:10.0.0.1"), false},
		{"IPv4-compatible is not IPv4", four, netip.MustParseAddr("::10.0.0.1"), false},
		{"IPv4 is not IPv6", six, netip.MustParseAddr("10.0.0.1"), false},
		// RFC 4007, section 6: zones tell hosts with equal addresses apart.
		{"a zone is never trusted", all, netip.MustParseAddr("fe80::1%eth0"), false},
		{"a zone on 4-in-6", all, netip.MustParseAddr("::ffff:10.0.0.1%eth0"), false},
	}
	for _, tt := range tests {
		if got := tt.set.Contains(tt.addr); got != tt.want {
			t.Errorf("%s: Contains(%v) = %v, want %v", tt.name, tt.addr, got, tt.want)
		}
		if _, got := tt.set.Lookup(tt.addr); got != tt.want {
			t.Errorf("%s: Lookup(%v) = %v, want %v", tt.name, tt.addr, got, tt.want)
		}
	}
}

func TestSetKeepsTheFirstOfEqualRules(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.0/8")
	set := NewSet([]Rule{{Prefix: p, Text: "first"}, {}, {Prefix: p, Text: "second"}})
	if got, _ := set.Lookup(p.Addr()); got.Text != "first" || set.Len() != 2 {
		t.Errorf("Lookup = %q among %d rules, want the first of 2", got.Text, set.Len())
	}
	rules := set.Rules()
	rules[0].Text = "changed"
	if set.Rules()[0].Text != "first" {
		t.Error("Rules returns the set's own slice")
	}
}

func TestSetDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	set := NewSet(randomRules(r, 10_000))
	addrs := make([]netip.Addr, 64)
	for i := range addrs {
		addrs[i] = randomAddr(r)
	}
	i := 0
	if n := allocations.PerRun(1000, func() {
		set.Contains(addrs[i%len(addrs)])
		set.Lookup(addrs[i%len(addrs)])
		set.Admit(addrs[i%len(addrs)], 0)
		i++
	}); n != 0 {
		t.Errorf("%v allocations per lookup, want none", n)
	}
}

// BenchmarkContains looks up addresses, half of them trusted, among 10 000 random
// prefixes of realistic lengths. The data path uses "live,counted".
func BenchmarkContains(b *testing.B) {
	for _, family := range []struct {
		name        string
		bytes, from int
		spread      int
	}{{"IPv4", 4, 12, 21}, {"IPv6", 16, 32, 33}} {
		r := rand.New(rand.NewPCG(7, 8))
		random := func() netip.Addr {
			raw := make([]byte, family.bytes)
			for i := range raw {
				raw[i] = byte(r.Uint32())
			}
			a, _ := netip.AddrFromSlice(raw)
			return a
		}
		rules := make([]Rule, 10_000)
		for i := range rules {
			rules[i].Prefix, _ = random().Prefix(family.from + r.IntN(family.spread))
		}
		set := NewSet(rules)
		live := NewLive(set)
		addrs := make([]netip.Addr, 1<<12)
		for i := range addrs {
			addrs[i] = random()
			if i%2 == 0 {
				addrs[i] = rules[r.IntN(len(rules))].Prefix.Addr()
			}
		}
		for name, ask := range map[string]func(netip.Addr){
			"":              func(a netip.Addr) { set.Contains(a) },
			"/counted":      func(a netip.Addr) { set.Admit(a, 0) },
			"/live":         func(a netip.Addr) { live.Contains(a) },
			"/live,counted": func(a netip.Addr) { live.Admit(a, 0) },
		} {
			b.Run(family.name+name, func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					ask(addrs[i%len(addrs)])
				}
			})
		}
	}
}

// Of rules that are equally near, the first one given counts; a rule that contains the
// address is nearest.
func TestSetNearestOfEqualRules(t *testing.T) {
	for _, row := range []struct {
		rules   []string
		address string
		want    string
	}{
		{[]string{"10.0.0.0/8", "11.0.0.0/8"}, "8.0.0.1", "10.0.0.0/8"},
		{[]string{"11.0.0.0/8", "10.0.0.0/8"}, "8.0.0.1", "11.0.0.0/8"},
		{[]string{"10.0.0.0/7", "8.0.0.0/7"}, "9.0.0.1", "8.0.0.0/7"},
		{[]string{"11.0.0.0/8", "10.0.0.0/8"}, "10.0.0.0", "10.0.0.0/8"},
		{[]string{"2001:db8::/32"}, "2001:db8::", "2001:db8::/32"},
		{[]string{"2001:db8::/32", "2001:db9::/32"}, "2001:db9:1::1", "2001:db9::/32"},
	} {
		var rules []Rule
		for _, text := range row.rules {
			rules = append(rules, Rule{Prefix: netip.MustParsePrefix(text)})
		}
		if r, ok := NewSet(rules).Nearest(netip.MustParseAddr(row.address)); !ok || r.Prefix.String() != row.want {
			t.Errorf("%s among %q: %v, %v", row.address, row.rules, r.Prefix, ok)
		}
	}
	if r, ok := (*Set)(nil).Nearest(netip.MustParseAddr("9.0.0.1")); ok {
		t.Errorf("no set has %v", r)
	}
	if r, ok := NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}).Nearest(netip.Addr{}); ok {
		t.Errorf("nothing is near to %v", r)
	}
}
