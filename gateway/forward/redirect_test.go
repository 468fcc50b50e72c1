package forward

import (
	"net/netip"
	"testing"
)

func TestRedirectText(t *testing.T) {
	for want, r := range map[string]Redirect{
		"203.0.113.0/24:1000-2000":  {netip.MustParsePrefix("203.0.113.0/24"), 1000, 2000},
		"203.0.113.7/32:25":         {netip.MustParsePrefix("203.0.113.7/32"), 25, 25},
		"203.0.113.0/24":            {netip.MustParsePrefix("203.0.113.0/24"), 1, 65535},
		"[2001:db8::/64]:1000-2000": {netip.MustParsePrefix("2001:db8::/64"), 1000, 2000},
		"[2001:db8::/64]":           {netip.MustParsePrefix("2001:db8::/64"), 1, 65535},
		":1000-2000":                {netip.Prefix{}, 1000, 2000},
		":1-65535":                  {netip.Prefix{}, 1, 65535},
	} {
		if got := r.String(); got != want {
			t.Errorf("%#v is written %q, want %q", r, got, want)
		}
	}
}
