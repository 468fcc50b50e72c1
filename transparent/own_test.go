package transparent_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"unproxy/integration_test/allocations"
	"unproxy/transparent"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

func TestOwnAddresses(t *testing.T) {
	list, failure := transparent.HostAddresses{
		Own: append(prefixes("192.0.2.1/32", "::ffff:192.0.2.2/128", "fe80::1/128", "198.51.100.0/24", "198.51.100.7/32",
			"2001:db8::/64"), netip.Prefix{}),
		Replaced: prefixes("203.0.113.255/32"),
	}, error(nil)
	o, err := transparent.NewOwnAddresses(func() (transparent.HostAddresses, error) { return list, failure })
	if err != nil {
		t.Fatal(err)
	}
	replaced := o.Replaced()
	expect := func(want bool, set transparent.Addresses, addresses ...string) {
		t.Helper()
		for _, a := range addresses {
			if got := set.Contains(addr(a)); got != want {
				t.Errorf("Contains(%s) = %v", a, got)
			}
		}
	}
	expect(true, o, "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "fe80::1", "fe80::1%eth1",
		"198.51.100.0", "198.51.100.6", "198.51.100.7", "198.51.100.8", "198.51.100.255", "2001:db8::9")
	expect(false, o, "192.0.2.0", "192.0.2.3", "::c000:201", "198.51.99.255", "198.51.101.0", "203.0.113.255",
		"0.0.0.0", "::", "2001:db8:0:1::", "ffff::")
	expect(true, replaced, "203.0.113.255", "::ffff:203.0.113.255")
	expect(false, replaced, "192.0.2.1", "203.0.113.254")

	// A prefix that contains the IPv4-mapped range and more is one of IPv6.
	wide, err := transparent.NewOwnAddresses(func() (transparent.HostAddresses, error) {
		return transparent.HostAddresses{Own: []netip.Prefix{netip.PrefixFrom(addr("::ffff:192.0.2.1"), 95)}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(true, wide, "::fffe:0:1")
	expect(false, wide, "192.0.2.1", "::fffd:0:1")

	// The IPv4-mapped range itself is every IPv4 address.
	all, err := transparent.NewOwnAddresses(func() (transparent.HostAddresses, error) {
		return transparent.HostAddresses{Own: []netip.Prefix{netip.PrefixFrom(addr("::ffff:0.0.0.0"), 96)}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(true, all, "0.0.0.0", "192.0.2.1", "255.255.255.255", "::ffff:192.0.2.1")
	expect(false, all, "::1", "::fffe:0:1", "2001:db8::1")
	expect(false, new(transparent.OwnAddresses), "192.0.2.1", "::1")

	list = transparent.HostAddresses{Own: prefixes("192.0.2.3/32")}
	expect(false, o, "192.0.2.3")
	failure = errors.New("no netlink here")
	if err := o.Refresh(); !errors.Is(err, failure) {
		t.Errorf("Refresh: %v, want %v", err, failure)
	}
	expect(true, o, "192.0.2.1")
	expect(true, replaced, "203.0.113.255")
	failure = nil
	if err := o.Refresh(); err != nil {
		t.Fatal(err)
	}
	expect(true, o, "192.0.2.3")
	expect(false, o, "192.0.2.1")
	expect(false, replaced, "203.0.113.255")

	a := addr("192.0.2.3")
	if n := allocations.PerRun(100, func() { o.Contains(a); replaced.Contains(a) }); n != 0 {
		t.Errorf("Contains allocates %v times", n)
	}
}

// Lookups agree with a search of all prefixes.
func TestOwnAddressesAgainstLinearSearch(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	small := func(v6 bool) netip.Addr { // of few addresses, so that prefixes overlap
		if v6 {
			return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(random.UintN(256))})
		}
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(random.UintN(256))})
	}
	for range 200 {
		var list []netip.Prefix
		for range random.UintN(12) {
			a := small(random.UintN(2) == 0)
			list = append(list, netip.PrefixFrom(a, a.BitLen()-int(random.UintN(7))))
		}
		o, err := transparent.NewOwnAddresses(func() (transparent.HostAddresses, error) {
			return transparent.HostAddresses{Own: list}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			a, want := small(random.UintN(2) == 0), false
			for _, p := range list {
				want = want || p.Contains(a)
			}
			if got := o.Contains(a); got != want {
				t.Fatalf("%v.Contains(%v) = %v", list, a, got)
			}
		}
	}
}

func TestNewOwnAddressesFails(t *testing.T) {
	failure := errors.New("no netlink here")
	_, err := transparent.NewOwnAddresses(func() (transparent.HostAddresses, error) {
		return transparent.HostAddresses{}, failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("error %v, want %v", err, failure)
	}
}
