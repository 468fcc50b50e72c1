package config

import (
	"strings"
	"testing"
)

// The return path covers the backends of transparent forwards only, with names
// unresolved, and every redirect.
func TestTargets(t *testing.T) {
	c, _, err := load([]string{
		":1-2=10.0.0.1:11-12,db.internal:5432?transparent",
		"udp://:3=[2001:db8::1]:53?transparent",
		":4=header?transparent&allow-destination=10.1.0.0/16",
		":5=10.0.0.9:5",
		":6=10.0.0.9:6?tproxy&redirect=203.0.113.0/24:1000-2000&redirect=:25",
	}, "route-table 100")
	if err != nil {
		t.Fatal(err)
	}
	targets := c.Targets()
	var got []string
	for _, b := range targets.Backends {
		text := b.Host
		if text == "" {
			text = b.Addr.String()
		}
		if b.UDP {
			text += " udp"
		}
		got = append(got, text+" "+b.Ports.String())
	}
	want := "10.0.0.1/32 11, db.internal 5432, 10.0.0.1/32 12, db.internal 5432, 2001:db8::1/128 udp 53, 10.1.0.0/16 0-65535"
	if strings.Join(got, ", ") != want {
		t.Errorf("backends %s; want %s", strings.Join(got, ", "), want)
	}
	got = nil
	for _, r := range targets.Redirects {
		got = append(got, r.Prefix.String()+" "+r.Ports.String()+" to "+r.To.String())
	}
	if want := "203.0.113.0/24 1000-2000 to [::]:6, invalid Prefix 25 to [::]:6"; strings.Join(got, ", ") != want {
		t.Errorf("redirects %s; want %s", strings.Join(got, ", "), want)
	}
	if targets.Options.Table != 100 {
		t.Errorf("table %d; want 100", targets.Options.Table)
	}
}
