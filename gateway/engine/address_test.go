package engine

import (
	"net/netip"
	"testing"
)

func TestAddressRoundTrip(t *testing.T) {
	for _, want := range []netip.AddrPort{
		{}, netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("203.0.113.9:65535"),
		netip.MustParseAddrPort("[::]:0"), netip.MustParseAddrPort("[2001:db8::9]:4711"),
		netip.MustParseAddrPort("[::ffff:192.0.2.1]:1"),
	} {
		a := pack(want)
		if got := a.unpack(); got != want || a.isValid() != want.IsValid() {
			t.Errorf("%v: got %v, valid %v", want, got, a.isValid())
		}
	}
}
