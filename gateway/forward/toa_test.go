package forward

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestTOASource(t *testing.T) {
	toa := TOA{Sources: []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.2"),
	}}
	for is4, want := range map[bool]string{
		true:  "[192.0.2.1 192.0.2.2 192.0.2.1 192.0.2.2]",
		false: "[2001:db8::1 2001:db8::1 2001:db8::1 2001:db8::1]",
	} {
		var got []netip.Addr
		for turn := range uint64(4) {
			got = append(got, toa.Source(is4, turn))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("IPv4 %v: %v, want %v", is4, got, want)
		}
	}
	if got := (&TOA{}).Source(true, 7); got.IsValid() {
		t.Errorf("without sources: %v", got)
	}
}
