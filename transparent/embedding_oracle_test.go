package transparent_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"unproxy/transparent"
)

// offered returns the IPv4 addresses that Embeds finds in a, sorted.
func offered(a netip.Addr) []netip.Addr {
	var all []netip.Addr
	transparent.Embeds(a, func(v4 netip.Addr) bool {
		all = append(all, v4)
		return false
	})
	return sorted(all)
}

func sorted(all []netip.Addr) []netip.Addr {
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// Random addresses of each form, and those that are one bit away from it, contain the
// addresses that a reading of their text in full finds, and no other ones.
func TestEmbedsAgainstOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 9))
	for _, form := range []struct {
		prefix     string
		identifier [4]byte // of the last 64 bits, if not zero
	}{
		{prefix: "64:ff9b::/96"}, {prefix: "64:ff9b:1::/96"}, {prefix: "64:ff9b:1::/48"}, {prefix: "::ffff:0:0:0/96"},
		{prefix: "2002::/16"}, {prefix: "2001::/32"}, {prefix: "2001:db8::/32"},
		{prefix: "2001:db8::/32", identifier: [4]byte{0, 0, 0x5e, 0xfe}},
		{prefix: "2001:db8::/32", identifier: [4]byte{2, 0, 0x5e, 0xfe}},
		{prefix: "a001:db8::/32", identifier: [4]byte{2, 0, 0x5e, 0xfe}},
	} {
		prefix := netip.MustParsePrefix(form.prefix)
		for range 2000 {
			b := prefix.Addr().As16()
			for bit := prefix.Bits(); bit < 128; bit++ {
				b[bit/8] |= byte(random.IntN(2)) << (7 - bit%8)
			}
			if form.identifier != [4]byte{} {
				copy(b[8:], form.identifier[:])
			}
			if random.IntN(2) == 0 {
				b[random.IntN(16)] ^= 1 << random.IntN(8)
			}
			a := netip.AddrFrom16(b)
			if got, want := offered(a), sorted(embedded(a)); !slices.Equal(got, want) {
				t.Fatalf("%v contains %v, want %v", a, got, want)
			}
		}
	}
}

// What is next to the IPv4-mapped range is no form of it.
func TestNextToMapped(t *testing.T) {
	for _, a := range []string{"::fffe:127.0.0.1", "::1:ffff:127.0.0.1", "::ffff:1:127.0.0.1"} {
		if got := offered(addr(a)); len(got) > 0 {
			t.Errorf("%s contains %v", a, got)
		}
	}
}

// An ISATAP identifier is not routed: the owner of an IPv6 network can choose it.
func TestEmbedsRouted(t *testing.T) {
	is := func(a netip.Addr) bool { return a == addr("192.0.2.9") }
	for a, want := range map[string]bool{
		"64:ff9b::192.0.2.9": true, "2002:c000:209::1": true, "::ffff:0:192.0.2.9": true,
		"2001:db8::5efe:192.0.2.9": false, "2001:db8::200:5efe:192.0.2.9": false, "2001:db8::192.0.2.9": false,
		"64:ff9b::192.0.2.8": false, "192.0.2.9": false,
	} {
		if got := transparent.EmbedsRouted(addr(a), is); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}
