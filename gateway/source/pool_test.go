package source

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/allocations"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestCount(t *testing.T) {
	for _, tt := range []struct {
		prefixes []string
		limit    int
		want     int
	}{
		{nil, 5, 0},
		{[]string{"10.0.0.1/32", "2001:db8::1/128"}, 5, 2},
		{[]string{"10.0.0.0/30", "2001:db8::/126"}, 9, 8},
		{[]string{"10.0.0.0/30", "2001:db8::/126"}, 8, 8},
		{[]string{"10.0.0.0/30", "2001:db8::/126"}, 7, 7},
		{[]string{"2001:db8::/64"}, 257, 257},
		{[]string{"0.0.0.0/1"}, 257, 257},
	} {
		if got := Count(prefixes(tt.prefixes...), tt.limit); got != tt.want {
			t.Errorf("Count(%v, %d) = %d, want %d", tt.prefixes, tt.limit, got, tt.want)
		}
	}
}

// The addresses of one family, in the order of the prefixes, each once and not too many.
func TestAddresses(t *testing.T) {
	given := prefixes("10.9.0.9/32", "2001:db8::/127", "10.9.0.8/30", "255.255.255.254/31")
	for is4, want := range map[bool][]string{
		true:  {"10.9.0.9", "10.9.0.8", "10.9.0.10", "10.9.0.11", "255.255.255.254", "255.255.255.255"},
		false: {"2001:db8::", "2001:db8::1"},
	} {
		var got []string
		for _, a := range Addresses(given, is4) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("IPv4 %v: %v, want %v", is4, got, want)
		}
	}
	if n := len(Addresses(prefixes("10.9.0.0/24", "10.8.0.0/31"), true)); n != MaxAddresses {
		t.Errorf("%d addresses, want %d", n, MaxAddresses)
	}
}

// Every address of the prefixes is in the pool once, and no other one.
func TestPoolContains(t *testing.T) {
	p := NewPool(prefixes("10.9.0.8/30", "10.9.0.9/32", "10.9.0.7/32", "2001:db8::/127"), 0)
	for a := netip.MustParseAddr("10.9.0.0"); a != netip.MustParseAddr("10.9.1.0"); a = a.Next() {
		want := a.As4()[3] >= 7 && a.As4()[3] < 12
		if p.Contains(a) != want {
			t.Errorf("Contains(%v) = %v", a, !want)
		}
	}
	if n := len(p.v4.all); n != 5 || len(p.v6.all) != 2 || !p.Serves(true) || !p.Serves(false) {
		t.Errorf("%d and %d addresses, want 5 and 2", n, len(p.v6.all))
	}
	if p := NewPool(prefixes("10.9.0.8/30"), 0); p.Serves(false) || p.Contains(netip.IPv6Loopback()) {
		t.Error("an IPv4 pool serves IPv6")
	}
}

func TestNoPool(t *testing.T) {
	p := NewPool(nil, 3)
	turn := p.Begin(true, 0)
	if _, ok := turn.Next(); ok || p != nil || p.Serves(true) || p.Contains(netip.IPv6Loopback()) {
		t.Error("a pool without prefixes has an address")
	}
	p.Freed(netip.IPv6Loopback())
}

// try makes a connection: it tries addresses until one is not full, and returns those tried.
func try(p *Pool, now int64, full func(netip.Addr) bool) (tried []byte) {
	turn := p.Begin(true, now)
	for a, ok := turn.Next(); ok; a, ok = turn.Next() {
		tried = append(tried, a.As4()[3])
		if !full(a) {
			turn.Succeeded()
			break
		}
		turn.Failed()
	}
	return tried
}

func none(netip.Addr) bool { return false }
func all(netip.Addr) bool  { return true }

func only(full ...byte) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return slices.Contains(full, a.As4()[3]) }
}

// The addresses are used in turn. One that is used up is tried last for a while, and a
// connection tries each at most once, of those that rest at most maxRested.
func TestTurns(t *testing.T) {
	p := NewPool(prefixes("10.9.0.0/29"), 2)
	const second = int64(1e9)
	for i, tt := range []struct {
		at   int64
		full func(netip.Addr) bool
		want []byte
	}{
		{0, none, []byte{2}},
		{0, none, []byte{3}},
		{0, only(4, 5), []byte{4, 5, 6}},
		{1, only(4, 5), []byte{7}},
		{1, only(4, 5), []byte{0}},
		{1, only(4, 5), []byte{1}},
		{1, only(4, 5), []byte{2}},
		{1, only(4, 5), []byte{3}},
		{1, only(4, 5), []byte{6}}, // 4 and 5 rest
		{1, all, []byte{7, 0, 1, 2, 3, 6, 4, 5}},
		{1, only(0, 1, 2, 3, 4, 5, 6, 7), []byte{6, 7, 0, 1}}, // all rest
		{1, none, []byte{2}},
		{1, none, []byte{2}},             // the only one that does not rest
		{2 + 20*second, none, []byte{3}}, // none rests any more
		{2 + 20*second, only(4, 5, 6, 7), []byte{4, 5, 6, 7, 0}},
	} {
		if got := try(p, tt.at, tt.full); !slices.Equal(got, tt.want) {
			t.Fatalf("row %d: tried %v, want %v", i, got, tt.want)
		}
	}
	p.Freed(netip.MustParseAddr("10.9.0.5"))
	for range 8 {
		if got := try(p, 3+20*second, none); got[0] == 5 {
			return
		}
	}
	t.Error("an address with a port that is free again still rests")
}

// Loops that begin at different addresses use all of them.
func TestLoopsBeginApart(t *testing.T) {
	for first, want := range []byte{0, 1, 2, 3, 0} {
		if got := try(NewPool(prefixes("10.9.0.0/30"), first), 0, none); got[0] != want {
			t.Errorf("loop %d begins at %v, want %d", first, got, want)
		}
	}
}

func TestTurnAllocatesNothing(t *testing.T) {
	p := NewPool(prefixes("10.9.0.0/24"), 0)
	if n := allocations.PerRun(1000, func() {
		turn := p.Begin(true, 1)
		turn.Next()
		turn.Succeeded()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// calls records the calls of Bind.
type calls struct {
	unbound bool // no interface has the address
	free    bool // IPV6_FREEBIND is set
	options [][2]int
}

func (c *calls) SetOption(_, level, name, _ int) unix.Errno {
	c.options = append(c.options, [2]int{level, name})
	c.free = c.free || level == unix.IPPROTO_IPV6 && name == unix.IPV6_FREEBIND
	return 0
}

func (c *calls) Bind(_ int, a netip.AddrPort) unix.Errno {
	if c.unbound && !c.free || a.Port() != 0 {
		return unix.EADDRNOTAVAIL
	}
	return 0
}

// own is the host's addresses.
type own []netip.Prefix

func (o own) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(o, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Only an IPv6 address of this host is bound without an interface that has it.
func TestBind(t *testing.T) {
	host := own(prefixes("10.9.0.0/24", "2001:db8::/64"))
	for _, tt := range []struct {
		address string
		own     own
		unbound bool
		want    unix.Errno
		free    bool
	}{
		{"10.9.0.1", host, false, 0, false},
		{"10.9.0.1", host, true, unix.EADDRNOTAVAIL, false},
		{"2001:db8::1", host, false, 0, false},
		{"2001:db8::1", host, true, 0, true},
		{"2001:db8:1::1", host, true, unix.EADDRNOTAVAIL, false},
		{"2001:db8::1", nil, true, unix.EADDRNOTAVAIL, false},
	} {
		c := &calls{unbound: tt.unbound}
		got := Bind(c, 3, netip.MustParseAddr(tt.address), tt.own)
		if got != tt.want || c.free != tt.free || c.options[0] != [2]int{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT} {
			t.Errorf("Bind to %s, unbound %v: %v, free %v, options %v", tt.address, tt.unbound, got, c.free, c.options)
		}
	}
}
