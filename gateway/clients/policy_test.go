package clients

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
	"unproxy/trust"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// rules returns the set of some rules, nil for none.
func rules(texts ...string) forward.Addresses {
	if len(texts) == 0 {
		return nil
	}
	var all []trust.Rule
	for _, text := range texts {
		p, err := trust.ParsePrefix(text)
		if err != nil {
			panic(err)
		}
		all = append(all, trust.Rule{Prefix: p, Text: text})
	}
	return trust.NewSet(all)
}

func TestCheck(t *testing.T) {
	var none []string
	for _, tt := range []struct {
		allow, deny, banned []string
		client, reason      string
	}{
		{none, none, none, "203.0.113.9", ""},
		{none, []string{"203.0.113.0/24"}, none, "203.0.113.9", ReasonRule},
		{none, []string{"203.0.113.0/24"}, none, "203.0.112.9", ""},
		{none, none, []string{"203.0.113.9"}, "203.0.113.9", ReasonBan},
		{none, none, []string{"203.0.113.9"}, "203.0.113.8", ""},
		{[]string{"203.0.113.0/24"}, none, none, "203.0.113.9", ""},
		{[]string{"203.0.113.0/24"}, none, none, "198.51.100.9", ReasonAllow},
		{[]string{"203.0.113.0/24"}, none, none, "2001:db8::1", ReasonAllow},
		// Deny wins, however specific the rules are.
		{[]string{"203.0.113.9"}, []string{"203.0.113.0/24"}, none, "203.0.113.9", ReasonRule},
		{[]string{"203.0.113.0/24"}, []string{"203.0.113.9"}, none, "203.0.113.9", ReasonRule},
		{[]string{"203.0.113.9"}, none, []string{"203.0.0.0/16"}, "203.0.113.9", ReasonBan},
		{none, []string{"2001:db8::/32"}, none, "2001:db8::1", ReasonRule},
		{none, []string{"2001:db8::/32"}, none, "203.0.113.9", ""},
		// IPv4 in IPv6; the forms are those of package transparent.
		{none, []string{"203.0.113.9"}, none, "64:ff9b::203.0.113.9", ReasonRule},
		{none, []string{"203.0.113.9"}, none, "64:ff9b::203.0.113.8", ""},
		{none, []string{"203.0.113.9"}, none, "2002:cb00:7109::1", ReasonRule},
		{none, []string{"203.0.113.9"}, none, "2001:0:cb00:7101:0:f227:34ff:8ef6", ReasonRule}, // Teredo
		{none, []string{"203.0.113.9"}, none, "2001:db8::5efe:cb00:7109", ReasonRule},          // ISATAP
		{none, none, []string{"203.0.113.9"}, "2002:cb00:7109::1", ReasonBan},
		{[]string{"203.0.113.9"}, none, none, "64:ff9b::203.0.113.9", ""},
		{[]string{"203.0.113.9"}, none, none, "64:ff9b::203.0.113.8", ReasonAllow},
		{[]string{"203.0.113.9"}, none, none, "2002:cb00:7109::1", ""},
		// The owner of any IPv6 network can choose an ISATAP identifier.
		{[]string{"203.0.113.9"}, none, none, "2001:db8::5efe:cb00:7109", ReasonAllow},
		{[]string{"203.0.113.9"}, none, none, "2001:db8::200:5efe:cb00:7109", ReasonAllow},
	} {
		p := New(&forward.Forward{AllowClient: rules(tt.allow...), DenyClient: rules(tt.deny...)}, rules(tt.banned...))
		want := record.OK
		if tt.reason != "" {
			want = record.ClientDenied
		}
		if outcome, reason := p.Check(addr(tt.client), 0, 0); outcome != want || reason != tt.reason {
			t.Errorf("allow %v, deny %v, banned %v: %s is %v, %q; want %v, %q",
				tt.allow, tt.deny, tt.banned, tt.client, outcome, reason, want, tt.reason)
		}
		outcome, _ := p.CheckUnnamed()
		if (outcome == record.OK) != (tt.allow == nil) {
			t.Errorf("allow %v: a header that names no client is %v", tt.allow, outcome)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		prefix, client string
		want           bool
	}{
		{"203.0.113.0/24", "203.0.113.9", true},
		{"203.0.113.0/24", "203.0.112.9", false},
		{"203.0.113.0/24", "64:ff9b::203.0.113.9", true},
		{"2001:db8::/32", "2001:db8::1", true},
		{"2001:db8::/32", "203.0.113.9", false},
	} {
		if got := Matches(netip.MustParsePrefix(tt.prefix))(addr(tt.client)); got != tt.want {
			t.Errorf("%s matches %s: %v", tt.prefix, tt.client, got)
		}
	}
}

// The rate applies to clients that are served; those of one /64 share it.
func TestRate(t *testing.T) {
	f := &forward.Forward{DenyClient: rules("203.0.113.0/24"), ClientRate: forward.Rate{PerSecond: 1, Burst: 2}}
	p := New(f, nil)
	now := int64(time.Hour)
	for i, tt := range []struct {
		client string
		pass   time.Duration
		want   record.Outcome
	}{
		{"198.51.100.1", 0, record.OK}, {"198.51.100.1", 0, record.OK}, {"198.51.100.1", 0, record.Limit},
		{"198.51.100.2", 0, record.OK},
		{"203.0.113.1", 0, record.ClientDenied},
		{"2001:db8::1", 0, record.OK}, {"2001:db8::2", 0, record.OK}, {"2001:db8::3", 0, record.Limit},
		{"2001:db8:0:1::1", 0, record.OK},
		{"198.51.100.1", 999 * time.Millisecond, record.Limit},
		{"198.51.100.1", 2 * time.Millisecond, record.OK},
	} {
		now += int64(tt.pass)
		outcome, reason := p.Check(addr(tt.client), 0, now)
		if outcome != tt.want || (outcome == record.Limit) != (reason == ReasonRate) {
			t.Errorf("%d: %s is %v, %q; want %v", i, tt.client, outcome, reason, tt.want)
		}
	}
}

// many returns 10 000 rules, as a list of attackers has.
func many() *trust.Set {
	random := rand.New(rand.NewPCG(5, 6))
	var all []trust.Rule
	for range 10_000 {
		a := netip.AddrFrom4([4]byte{byte(1 + random.IntN(9)), byte(random.IntN(256)), byte(random.IntN(256)), byte(random.IntN(256))})
		p, _ := a.Prefix(16 + random.IntN(17))
		all = append(all, trust.Rule{Prefix: p})
	}
	return trust.NewSet(all)
}

// many6 returns 10 000 rules of IPv6, next to the client of the benchmark.
func many6() *trust.Set {
	random := rand.New(rand.NewPCG(7, 8))
	all := make([]trust.Rule, 10_000)
	for i := range all {
		raw := [16]byte{0x2a, byte(random.IntN(4)), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}
		all[i].Prefix, _ = netip.AddrFrom16(raw).Prefix(32 + random.IntN(17))
	}
	return trust.NewSet(all)
}

func TestCheckDoesNotAllocate(t *testing.T) {
	f := &forward.Forward{DenyClient: many(), AllowClient: rules("0.0.0.0/0", "::/0"), ClientRate: forward.Rate{PerSecond: 100_000, Burst: 1}}
	p := New(f, rules("198.51.100.0/24"))
	for _, client := range []string{"203.0.113.9", "2001:db8::1", "64:ff9b::203.0.113.9", "198.51.100.7"} {
		a, now := addr(client), int64(0)
		if n := allocations.PerRun(1000, func() { now += int64(time.Millisecond); p.Check(a, 0, now) }); n != 0 {
			t.Errorf("%s: %v allocations", client, n)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	empty := New(&forward.Forward{}, nil)
	full := New(&forward.Forward{DenyClient: many()}, rules("198.51.100.0/24"))
	full6 := New(&forward.Forward{DenyClient: many6()}, rules("198.51.100.0/24", "2001:db8::/32"))
	for _, bb := range []struct {
		name, client string
		policy       *Policy
	}{
		{"unused", "203.0.113.9", empty},
		{"10000 rules", "203.0.113.9", full},
		{"10000 rules, IPv6", "2a00:1450:4001::1", full},
		{"10000 rules of IPv6, IPv6", "2a00:1450:4001::1", full6},
		{"10000 rules, IPv4 in IPv6", "64:ff9b::203.0.113.9", full},
	} {
		b.Run(bb.name, func(b *testing.B) {
			client := addr(bb.client)
			for b.Loop() {
				bb.policy.Check(client, 0, 0)
			}
		})
	}
}
