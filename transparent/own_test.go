package transparent_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"unproxy/integration_test/allocations"
	"unproxy/integration_test/netns"
	"unproxy/transparent"
)

func TestOwnAddresses(t *testing.T) {
	list, failure := []netip.Addr{addr("192.0.2.1"), addr("::ffff:192.0.2.2"), addr("fe80::1%eth0")}, error(nil)
	o, err := transparent.NewOwnAddresses(func() ([]netip.Addr, error) { return list, failure })
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want bool, addresses ...string) {
		t.Helper()
		for _, a := range addresses {
			if got := o.Contains(addr(a)); got != want {
				t.Errorf("Contains(%s) = %v", a, got)
			}
		}
	}
	expect(true, "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "fe80::1", "fe80::1%eth1")
	expect(false, "192.0.2.3", "::c000:201")

	list = []netip.Addr{addr("192.0.2.3")}
	expect(false, "192.0.2.3")
	failure = errors.New("no netlink here")
	if err := o.Refresh(); !errors.Is(err, failure) {
		t.Errorf("Refresh: %v, want %v", err, failure)
	}
	expect(true, "192.0.2.1")
	failure = nil
	if err := o.Refresh(); err != nil {
		t.Fatal(err)
	}
	expect(true, "192.0.2.3")
	expect(false, "192.0.2.1")

	if n := allocations.PerRun(100, func() { o.Contains(list[0]) }); n != 0 {
		t.Errorf("Contains allocates %v times", n)
	}
}

func TestNewOwnAddressesFails(t *testing.T) {
	failure := errors.New("no netlink here")
	_, err := transparent.NewOwnAddresses(func() ([]netip.Addr, error) { return nil, failure })
	if !errors.Is(err, failure) {
		t.Errorf("error %v, want %v", err, failure)
	}
}

// lo:  198.51.100.5/24  203.0.113.1/31  2001:db8::5/64  127.0.0.1/8  ::1/128
func TestHostAddresses(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "address add 198.51.100.5/24 dev lo")
		netns.IP(t, "address add 203.0.113.1/31 dev lo")
		netns.IP(t, "address add 2001:db8::5/64 dev lo nodad")
		got, err := transparent.HostAddresses()
		if err != nil {
			t.Fatal(err)
		}
		for want, why := range map[string]string{
			"127.0.0.1":      "lo",
			"::1":            "lo",
			"198.51.100.5":   "lo",
			"198.51.100.255": "broadcast address on lo",
			"198.51.100.0":   "old-style broadcast address on lo",
			"203.0.113.1":    "lo, network without broadcast (RFC 3021)",
			"2001:db8::5":    "lo",
		} {
			if !slices.Contains(got, addr(want)) {
				t.Errorf("no %s (%s) in %v", want, why, got)
			}
		}
		for _, not := range []string{"203.0.113.0", "2001:db8::", "198.51.100.1"} {
			if slices.Contains(got, addr(not)) {
				t.Errorf("%s in %v, but it is not an address of the host", not, got)
			}
		}
	})
}
