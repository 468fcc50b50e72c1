package config

import (
	"strings"
	"testing"

	"unproxy/gateway/config/value"
)

// A source address is one that a socket can be bound to, and there are not too many.
func TestSourceAddress(t *testing.T) {
	for _, tt := range []struct {
		text, why, hint string // no why: it is accepted
	}{
		{text: "10.9.0.7"},
		{text: "127.0.0.1"},
		{text: "10.9.0.0/24"},
		{text: "2001:db8::1"},
		{text: "2001:db8::/120"},
		{"", "is not an address or a prefix", ""},
		{"10.9.0", "is not an address or a prefix", ""},
		{"example.com", "is not an address or a prefix", ""},
		{"10.9.0.7:80", "is not an address or a prefix", ""},
		{"::ffff:10.9.0.7", "is not an address or a prefix", ""},
		{"fe80::1%eth0", "is not an address or a prefix", ""},
		{"fe80::1", "is link-local", ""},
		{"10.9.0.7/24", "has bits behind the prefix", "10.9.0.0/24"},
		{"0.0.0.0", "is every address", ""},
		{"::", "is every address", ""},
		{"0.0.0.0/0", "is every address", ""},
		{"::/0", "is every address", ""},
		{"128.0.0.0/1", "makes more than 256 source addresses", ""},
		{"224.0.0.1", "is no address that a connection can come from", ""},
		{"ff02::1", "is no address that a connection can come from", ""},
		{"255.255.255.255", "is no address that a connection can come from", ""},
		{"10.9.0.0/23", "makes more than 256 source addresses", ""},
		{"2001:db8::/64", "makes more than 256 source addresses", ""},
	} {
		got, err := parseSourceAddresses([]string{tt.text})
		if tt.why == "" {
			if err != nil || len(got) != 1 {
				t.Errorf("%q: %v, %v", tt.text, got, err)
			}
			continue
		}
		e, ok := err.(*value.Error)
		if !ok || !strings.Contains(e.Why, tt.why) || e.Hint != tt.hint {
			t.Errorf("%q: %#v; want %q, hint %q", tt.text, err, tt.why, tt.hint)
		}
	}
	if _, err := parseSourceAddresses([]string{"10.9.0.0/25", "10.9.1.0/25", "10.9.2.1"}); err == nil {
		t.Error("257 addresses are accepted")
	}
}

// check says where source addresses have no effect.
func TestSourceAddressWarnings(t *testing.T) {
	const address, prefix6 = "source-address 10.9.0.7", "source-address 2001:db8::/121"
	for _, tt := range []struct {
		forwards, flags []string
		want            string // "": no warning
	}{
		{[]string{":1=10.0.0.1:2"}, []string{address}, ""},
		{[]string{"udp://:1=10.0.0.1:2"}, []string{address}, ""},
		{[]string{":1=db:2"}, []string{address}, ""},
		{[]string{":1=[2001:db8::1]:2"}, []string{address},
			"forward :1: backend [2001:db8::1]:2 has an IPv6 address, but no source address has: there the kernel chooses one"},
		{[]string{":1=10.0.0.1:2"}, []string{prefix6},
			"forward :1: backend 10.0.0.1:2 has an IPv4 address, but no source address has: there the kernel chooses one"},
		{[]string{":1=[2001:db8::1]:2,10.0.0.1:2"}, []string{address, prefix6}, ""},
		{[]string{":1=10.0.0.1:2"}, []string{address, "transparent on"},
			"--source-address has no effect with --transparent"},
		{[]string{":1=10.0.0.1:2"}, []string{address, "transparent toa", "local close"},
			"--source-address has no effect with --transparent"},
		{[]string{":1=10.0.0.1:2?source-address=10.9.0.7&transparent=on"}, nil,
			"forward :1: source-address has no effect with --transparent"},
		{[]string{":1=10.0.0.1:2?transparent=on", ":2=10.0.0.1:2"}, []string{address}, ""},
		{[]string{":1=unix:/run/s"}, []string{address}, "--source-address has no effect with backends on unix sockets"},
	} {
		_, warnings, err := load(tt.forwards, tt.flags...)
		if err != nil {
			t.Errorf("%v %v: %v", tt.forwards, tt.flags, err)
			continue
		}
		var got []string
		for _, w := range warnings {
			if strings.Contains(w.Message, "source") {
				got = append(got, w.Message)
			}
		}
		if strings.Join(got, "|") != tt.want {
			t.Errorf("%v %v: warnings %q; want %q", tt.forwards, tt.flags, got, tt.want)
		}
	}
}

// A transparent forward never has source addresses, whatever is common to all forwards.
func TestTransparentForwardHasNoSourceAddress(t *testing.T) {
	f := mustLoad(t, ":1=10.0.0.1:2?transparent=on", "source-address 10.9.0.7")
	if len(f.SourceAddresses) > 0 {
		t.Errorf("source addresses %v", f.SourceAddresses)
	}
}

// The stand-ins of IPv4 clients end in 32 bits of the client's address.
func TestMapPrefix(t *testing.T) {
	for _, tt := range []struct{ text, why, hint string }{
		{"2001:db8:64::/96", "", ""},
		{"2001:db8:64::/64", "is not an IPv6 prefix of 96 bits", "2001:db8:64::/96"},
		{"2001:db8:64::1/96", "is not an IPv6 prefix of 96 bits", "2001:db8:64::/96"},
		{"2001:db8:64::", "is not an IPv6 prefix of 96 bits", "64:ff9b::/96"},
		{"10.0.0.0/8", "is not an IPv6 prefix of 96 bits", ""},
		{"fe80::/96", "consists of link-local addresses", ""},
	} {
		d := newDraft()
		err := setMapPrefix(&d, []string{tt.text})
		if tt.why == "" {
			if err != nil || d.Source.MapPrefix.String() != tt.text {
				t.Errorf("%q: %v, %v", tt.text, d.Source.MapPrefix, err)
			}
			continue
		}
		if e, ok := err.(*value.Error); !ok || !strings.HasPrefix(e.Why, tt.why) || e.Hint != tt.hint {
			t.Errorf("%q: %#v; want %q, hint %q", tt.text, err, tt.why, tt.hint)
		}
	}
	_, warnings, err := load([]string{":1=[2001:db8::1]:2"}, "transparent on", "map-prefix 2001:db8:64::/96")
	if err != nil || len(warnings) != 1 || warnings[0].Message != "--map-prefix has no effect without --family-mismatch map" {
		t.Errorf("without map: %v, %v", warnings, err)
	}
}
