package transparent_test

import (
	"net/netip"
	"testing"

	"unproxy/integration_test/allocations"
	"unproxy/transparent"
)

// Every well-known form of a denied IPv4 address is denied, and no other one.
func TestEmbeddedIPv4IsDenied(t *testing.T) {
	const none = ""
	for _, tt := range []struct{ source, form, origin string }{
		{"64:ff9b::7f00:1", "NAT64", "RFC 6052, 2.1"},
		{"64:ff9b::0.0.0.0", "NAT64", ""},
		{"64:ff9b::169.254.169.254", "NAT64", ""},
		{"64:ff9b::224.0.0.1", "NAT64", ""},
		{"64:ff9b::255.255.255.255", "NAT64", ""},
		{"64:ff9b::203.0.113.9", none, ""},
		{"64:ff9b:0:1::127.0.0.1", none, "another prefix"},
		{"64:ff9b:1::127.0.0.1", "NAT64", "RFC 8215, prefix of 96 bits"},
		{"64:ff9b:1:fffe:ffff:ffff:127.0.0.1", "NAT64", ""},
		{"64:ff9b:1:7f00:0:100::", "NAT64", "RFC 8215, prefix of 48 bits: 127.0 u 0.1"},
		{"64:ff9b:1:a9fe:a9:fe00::", "NAT64", "169.254.169.254"},
		{"64:ff9b:1:27f:0:1::", "NAT64", "prefix of 56 bits: 127 u 0.0.1"},
		{"64:ff9b:1:2:7f:0:100::", "NAT64", "prefix of 64 bits: u 127.0.0.1"},
		{"64:ff9b:1::0.0.0.0", "NAT64", ""},
		{"64:ff9b:1::203.0.113.9", none, ""},
		{"64:ff9b:1:cb00:71:900::", none, "RFC 8215, prefix of 48 bits: 203.0 u 113.9"},
		{"64:ff9b:2::127.0.0.1", none, "another prefix"},
		{"2002:7f00:1::", "6to4", "RFC 3056, 2"},
		{"2002:7f00:1:2:3:4:5:6", "6to4", ""},
		{"2002:c000:201::1", "6to4", "the gateway's own address"},
		{"2002:cb00:7109::1", none, ""},
		{"2001:0:cb00:7101:0:f227:80ff:fffe", "Teredo", "RFC 4380, 4: 127.0.0.1 inverted"},
		{"2001:0:cb00:7101:0:f227:34ff:8ef6", none, "203.0.113.9 inverted"},
		{"2001:0:cb00:7101:0:f227:7f00:1", none, "not inverted"},
		{"2001:db8::80ff:fffe", none, "not Teredo"},
		{"2001:db8::5efe:7f00:1", "ISATAP", "RFC 5214, 6.1"},
		{"2001:db8::200:5efe:7f00:1", "ISATAP", ""},
		{"2001:db8:1:2:0:5efe:127.0.0.1", "ISATAP", ""},
		{"2001:db8::200:5efe:203.0.113.9", none, ""},
		{"2001:db8::300:5efe:127.0.0.1", none, "an EUI-64 of another kind"},
		{"2001:db8::127.0.0.1", none, "no form at all"},
		{"::ffff:0:127.0.0.1", "IPv4-translated", "RFC 2765, 2.1"},
		{"::ffff:0:203.0.113.9", none, ""},
	} {
		p := transparent.Policy{Own: own, Replaced: replaced}
		want := transparent.Choice{
			Rejection: transparent.SourceDenied, Reason: tt.form + " form of a denied IPv4 address",
		}
		if tt.form == none {
			want = transparent.Choice{Source: netip.AddrPortFrom(addr(tt.source), 4711), Transparent: true}
		}
		source := netip.AddrPortFrom(addr(tt.source), 4711)
		if got := p.Choose(source, ap(backend6)); got != want {
			t.Errorf("Choose(%s) = %+v, want %+v (%s)", tt.source, got, want, tt.origin)
		}
		p.Allow = set{source.Addr()}
		if got := p.Choose(source, ap(backend6)); got.Rejection != transparent.None {
			t.Errorf("allowed: Choose(%s) = %+v", tt.source, got)
		}
	}
}

// A client that is allowed reaches a backend of the other family through its
// stand-in, which contains the client's address.
func TestStandInOfAllowedClient(t *testing.T) {
	p := transparent.Policy{FamilyMismatch: transparent.Map, Own: own, Allow: set{addr("127.0.0.1"), addr("192.0.2.1")}}
	for _, client := range []string{"127.0.0.1", "192.0.2.1"} {
		if got := p.Choose(netip.AddrPortFrom(addr(client), 1), ap(backend6)); !got.Mapped {
			t.Errorf("Choose(%s) = %+v", client, got)
		}
	}
}

func TestEmbedsIPv4Mapped(t *testing.T) {
	is := func(v4 string) func(netip.Addr) bool { return func(a netip.Addr) bool { return a == addr(v4) } }
	for a, want := range map[string]bool{"::ffff:127.0.0.1": true, "::127.0.0.1": true, "127.0.0.1": false} {
		if got := transparent.Embeds(addr(a), is("127.0.0.1")); got != "" != want {
			t.Errorf("Embeds(%s) = %q", a, got)
		}
	}
}

// Every IPv4 address has its IPv4-mapped form.
func TestEmbedsAllMapped(t *testing.T) {
	for _, v4 := range []string{"0.0.0.0", "127.255.255.255", "128.0.0.0", "200.0.0.1", "255.255.255.255"} {
		a := netip.AddrFrom16(addr(v4).As16())
		if got := transparent.Embeds(a, func(b netip.Addr) bool { return b == addr(v4) }); got == "" {
			t.Errorf("%v does not contain %s", a, v4)
		}
	}
	if transparent.MayEmbed(addr("203.0.113.9")) {
		t.Error("an IPv4 address contains another one")
	}
}

func TestEmbedsDoesNotAllocate(t *testing.T) {
	a, denied := addr("64:ff9b:1::203.0.113.9"), addr("127.0.0.1")
	if n := allocations.PerRun(100, func() {
		transparent.Embeds(a, func(v4 netip.Addr) bool { return v4 == denied })
	}); n != 0 {
		t.Errorf("Embeds allocates %v times", n)
	}
}

// embedded returns the IPv4 addresses in a, read from its text in full.
func embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return nil
	}
	text := a.WithZone("").StringExpanded()
	hex := ""
	for _, c := range text {
		if c != ':' {
			hex += string(c)
		}
	}
	at := func(digits string) netip.Addr {
		var v4 [4]byte
		for i := range v4 {
			v4[i] = digit(digits[2*i])<<4 | digit(digits[2*i+1])
		}
		return netip.AddrFrom4(v4)
	}
	last, begins := at(hex[24:]), func(p string) bool { return len(hex) >= len(p) && hex[:len(p)] == p }
	var all []netip.Addr
	switch {
	case begins("0064ff9b0000000000000000"), begins("0064ff9b0001000000000000"), begins("0000000000000000ffff0000"):
		all = append(all, last)
	case begins("0064ff9b0001"):
		for _, v4 := range []netip.Addr{
			at(hex[12:16] + hex[18:22]), at(hex[14:16] + hex[18:24]), at(hex[18:26]), last,
		} {
			if v4.As4()[0] != 0 {
				all = append(all, v4)
			}
		}
	case begins("2002"):
		all = append(all, at(hex[4:12]))
	case begins("20010000"):
		v4 := last.As4()
		all = append(all, netip.AddrFrom4([4]byte{^v4[0], ^v4[1], ^v4[2], ^v4[3]}))
	}
	if eui := hex[16:24]; eui == "00005efe" || eui == "02005efe" {
		all = append(all, last)
	}
	return all
}

func digit(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}
