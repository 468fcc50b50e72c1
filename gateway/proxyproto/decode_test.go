package proxyproto

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var (
	client4   = netip.MustParseAddrPort("192.0.2.1:56324")
	service4  = netip.MustParseAddrPort("198.51.100.2:443")
	client6   = netip.MustParseAddrPort("[2001:db8::1]:56324")
	service6  = netip.MustParseAddrPort("[2001:db8:ffff::2]:443")
	authority = TLV{TypeAuthority, []byte("example.com")}
)

const v1Line = "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"

func mustV2(t testing.TB, m Message) []byte {
	t.Helper()
	b, err := AppendV2(nil, &m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// refusal returns the *Error in err; without one the test fails.
func refusal(t testing.TB, err error) Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want an *Error", err)
	}
	return *e
}

func TestOptions(t *testing.T) {
	plain := string(mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4}))
	summed := string(mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4, Checksum: true}))
	local := string(mustV2(t, Message{}))
	unspec := string(mustV2(t, Message{Command: CommandProxy}))
	udp := string(mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4, Datagram: true}))
	for _, row := range []struct {
		name   string
		in     string
		o      Options
		want   Result
		reason string
		offset int
	}{
		{"v1 refused", v1Line, Options{RefuseV1: true}, 0, "v1 not accepted", 1},
		{"v2 while v1 is refused", plain, Options{RefuseV1: true}, Proxy, "", 0},
		{"v2 refused", plain, Options{RefuseV2: true}, 0, "v2 not accepted", 1},
		{"v1 while v2 is refused", v1Line, Options{RefuseV2: true}, Proxy, "", 0},
		{"neither, while both are refused", "GET", Options{RefuseV1: true, RefuseV2: true}, 0, "no PROXY signature", 1},
		{"as long as allowed", plain, Options{MaxLength: 28}, Proxy, "", 0},
		{"longer than allowed", plain, Options{MaxLength: 27}, 0, "header longer than allowed", 16},
		{"longer than allowed, LOCAL", local, Options{MaxLength: 15}, 0, "header longer than allowed", 16},
		{"v1 has its own limit", v1Line, Options{MaxLength: 16}, Proxy, "", 0},
		{"checksum present", summed, Options{RequireChecksum: true}, Proxy, "", 0},
		{"checksum missing", plain, Options{RequireChecksum: true}, 0, "CRC32C missing", 28},
		{"checksum missing, UNSPEC", unspec, Options{RequireChecksum: true}, 0, "CRC32C missing", 16},
		{"checksum and LOCAL", local, Options{RequireChecksum: true}, Local, "", 0},
		{"checksum and v1", v1Line, Options{RequireChecksum: true}, Proxy, "", 0},
		{"UDP on TCP", udp, Options{}, Unknown, "", 0},
		{"TCP in a datagram", plain, Options{Datagram: true}, Unknown, "", 0},
		{"v2 refused in a datagram", plain, Options{Datagram: true, RefuseV2: true}, 0, "v2 not accepted", 1},
		{"empty datagram", "", Options{Datagram: true}, 0, "header does not fit its datagram", 0},
		{"datagram without a header", "ping", Options{Datagram: true}, 0, "not a v2 signature (v1 is TCP only)", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			h, err := Decode([]byte(row.in), &row.o)
			if row.reason == "" {
				if err != nil || h.Result != row.want {
					t.Fatalf("Decode = %v, %v, want %v", h.Result, err, row.want)
				}
				return
			}
			if e := refusal(t, err); e.Reason.String() != row.reason || e.Offset != row.offset {
				t.Fatalf("refused after %d bytes with %q, want after %d with %q", e.Offset, e.Reason, row.offset, row.reason)
			}
		})
	}
}

// nginx sends such lines if its realip module has replaced the client's address
// by one of the other family.
func TestIPv4InTCP6(t *testing.T) {
	for _, row := range []struct {
		addresses           string
		source, destination string
		strict, lenient     string // reasons
	}{
		{"192.0.2.1 198.51.100.2", "192.0.2.1", "198.51.100.2", "ipv4 address in a TCP6 line", ""},
		{"2001:db8::1 198.51.100.2", "2001:db8::1", "198.51.100.2", "ipv4 address in a TCP6 line", ""},
		{"192.0.2.1 2001:db8::2", "192.0.2.1", "2001:db8::2", "ipv4 address in a TCP6 line", ""},
		{"2001:db8::1 ::ffff:192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "", ""},
		{"192.0.2.01 2001:db8::2", "", "", "ipv4 octet", "ipv4 octet"},
		{"192.0.2 2001:db8::2", "", "", "ipv4 syntax", "ipv4 syntax"},
		{"3221225985 2001:db8::2", "", "", "ipv6 group count", "ipv6 group count"},
	} {
		line := "PROXY TCP6 " + row.addresses + " 1 2\r\n"
		for _, lenient := range []bool{false, true} {
			want := row.strict
			if lenient {
				want = row.lenient
			}
			h, err := Decode([]byte(line), &Options{IPv4InTCP6: lenient})
			if want != "" {
				if e := refusal(t, err); e.Reason.String() != want || e.Offset != len(line) {
					t.Errorf("%q lenient %v: %v, want %s", line, lenient, err, want)
				}
				continue
			}
			source, destination := netip.MustParseAddr(row.source), netip.MustParseAddr(row.destination)
			if err != nil || h.Source.Addr() != source || h.Destination.Addr() != destination {
				t.Errorf("%q lenient %v: %v %v, %v", line, lenient, h.Source, h.Destination, err)
			}
		}
		asTCP4 := strings.Replace(line, "TCP6", "TCP4", 1)
		if _, err := Decode([]byte(asTCP4), &Options{IPv4InTCP6: true}); err == nil && strings.Contains(line, ":") {
			t.Errorf("%q was accepted", asTCP4)
		}
	}
}

// Refusals that testdata/vectors.json does not cover.
func TestMoreRefusals(t *testing.T) {
	tcp6 := func(address string) string { return "PROXY TCP6 " + address + " ::1 1 2\r\n" }
	for _, row := range []struct{ line, want string }{
		{tcp6("12345::1"), "ipv6 group"},
		{tcp6(":1:2:3:4:5:6:7"), "ipv6 group"},
		{tcp6("1:2:3:4:5:6:7:"), "ipv6 group"},
		{tcp6("1::2:"), "ipv6 group"},
		{tcp6(":1::2"), "ipv6 group"},
		{tcp6(":::"), "ipv6 double colon"},
		{tcp6("1:::2"), "ipv6 double colon"},
		{tcp6(":"), "ipv6 group count"},
		{tcp6("::1:2:3:4:5:6:7:8"), "ipv6 too many groups"},
		{tcp6("1:2:3:4:5:6::1.2.3.4"), "ipv6 too many groups"},
		{tcp6("1:2:3:4:5:6:7:1.2.3.4"), "ipv6 group count"},
		{tcp6(":1.2.3.4"), "ipv6 group count"},
		{tcp6("1.2.3.4:"), "ipv4 syntax"},
		{"PROXY TCP4 .1.2.3 1.2.3.4 1 2\r\n", "ipv4 syntax"},
		{"PROXY TCP4 1..2.3 1.2.3.4 1 2\r\n", "ipv4 syntax"},
		{"PROXY TCP4 1.2.3.4.5 1.2.3.4 1 2\r\n", "ipv4 syntax"},
		{"PROXY TCP4 00.1.2.3 1.2.3.4 1 2\r\n", "ipv4 octet"},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 00 2\r\n", "port"},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "port"},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", "port"},
		{"PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n", "v1 protocol name"},
		{"PROXY TCP4\r\n", "v1 field count"},
		{"PROXY TCP4 \r\n", "v1 field count"},
		{"PROXY \r\n", "v1 protocol name"},
		{"PROXY UNKNOWN\tx\r\n", "v1 protocol name"},
	} {
		_, err := Decode([]byte(row.line), nil)
		if e := refusal(t, err); e.Reason.String() != row.want || e.Offset != len(row.line) {
			t.Errorf("%q: %v, want %s", row.line, err, row.want)
		}
	}
}

// TestIPv6AgainstNetip compares the parser with that of net/netip, for all texts
// of up to seven characters of a small alphabet, and for mutations of real
// addresses.
func TestIPv6AgainstNetip(t *testing.T) {
	check := func(s []byte) {
		want, err := netip.ParseAddr(string(s))
		valid := err == nil && want.Zone() == "" && want.Is6()
		got, reason := readAddress(s, true, &Options{})
		if valid != (reason == 0) || valid && got != want {
			t.Fatalf("%q: %v, reason %q; net/netip: %v, %v", s, got, reason, want, err)
		}
		want, err = netip.ParseAddr(string(s))
		valid = err == nil && want.Is4()
		got, reason = readAddress(s, false, &Options{})
		if valid != (reason == 0) || valid && got != want {
			t.Fatalf("%q: %v, reason %q; net/netip: %v, %v", s, got, reason, want, err)
		}
	}
	const alphabet = "0aF:.1"
	for length := 1; length <= 7; length++ {
		s := make([]byte, length)
		count := 1
		for range length {
			count *= len(alphabet)
		}
		for n := range count {
			for i := range s {
				s[i], n = alphabet[n%len(alphabet)], n/len(alphabet)
			}
			check(s)
		}
	}
	for _, real := range []string{
		"2001:db8:1:2:3:4:5:6", "2001:db8::1", "::ffff:192.0.2.255", "1:2:3:4:5:6:192.0.2.1",
		"64:ff9b::192.0.2.33", "1::", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "192.0.2.255",
	} {
		for i := range real {
			check([]byte(real[:i] + real[i+1:]))
			for _, c := range "09afg:.% " {
				check([]byte(real[:i] + string(c) + real[i:]))
				check([]byte(real[:i] + string(c) + real[i+1:]))
			}
		}
	}
}

func TestMissing(t *testing.T) {
	v2 := mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4, TLVs: []TLV{authority}})
	for _, row := range []struct {
		in   string
		want int
	}{
		{"", 15},
		{"P", 14},
		{"PROXY TCP4 ", 4},
		{"PROXY UNKNOWN", 2},
		{"PROXY UNKNOWN\r", 1},
		{v1Line[:len(v1Line)-2], 2},
		{v1Line[:len(v1Line)-1], 1},
		{string(v2[:1]), 15},
		{string(v2[:15]), 1},
		{string(v2[:16]), len(v2) - 16},
		{string(v2[:len(v2)-1]), 1},
	} {
		if got := answer(Decode([]byte(row.in), nil)); got != "incomplete" {
			t.Fatalf("%q: %s", row.in, got)
		}
		if got := Missing([]byte(row.in)); got != row.want {
			t.Errorf("Missing(%q) = %d, want %d", row.in, got, row.want)
		}
	}
	for _, whole := range []string{v1Line, string(v2), "PROXY UNKNOWN\r\n"} {
		for n := range len(whole) {
			if got := Missing([]byte(whole[:n])); got < 1 || got > len(whole)-n {
				t.Errorf("Missing(%q) = %d, want 1 to %d", whole[:n], got, len(whole)-n)
			}
		}
	}
}

func TestTwoChecksums(t *testing.T) {
	b := mustV2(t, Message{
		Command: CommandProxy, Source: client4, Destination: service4,
		TLVs: []TLV{{TypeCRC32C, []byte{0, 0, 0, 0}}}, Checksum: true,
	})
	_, err := Decode(b, nil)
	if e := refusal(t, err); e.Reason != ReasonChecksumTwice || e.Offset != len(b) {
		t.Error(err)
	}
}

// Deeply nested SSL TLVs overflowed the stack of another decoder
// (CVE-2022-41881). Here nested TLVs, and many empty ones, take a single walk.
func TestManyTLVs(t *testing.T) {
	nested := []TLV{}
	for range 200 {
		tlv, err := SSLTLV(SSL{}, nested...)
		if err != nil {
			t.Fatal(err)
		}
		nested = []TLV{tlv}
	}
	for _, tlvs := range [][]TLV{nested, make([]TLV, 20000)} {
		b := mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4, TLVs: tlvs})
		if got := answer(Decode(b, nil)); got != "proxy" {
			t.Errorf("%d TLVs: %s", len(tlvs), got)
		}
	}
}

func TestDecodeDoesNotModifyItsInput(t *testing.T) {
	b := mustV2(t, Message{
		Command: CommandProxy, Source: client6, Destination: service6, TLVs: []TLV{authority}, Checksum: true,
	})
	before := bytes.Clone(b)
	h, err := Decode(b, nil)
	if err != nil || !bytes.Equal(b, before) {
		t.Fatalf("Decode modified its input, or failed: %v", err)
	}
	if &h.TLVs[0] != &b[fixedLength+inet6Length] {
		t.Error("TLVs do not alias the input")
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	ssl, err := SSLTLV(SSL{Client: ClientTLS}, TLV{TypeSSLVersion, []byte("TLSv1.3")})
	if err != nil {
		t.Fatal(err)
	}
	full := mustV2(t, Message{
		Command: CommandProxy, Source: client4, Destination: service4, TLVs: []TLV{authority, ssl}, Checksum: true,
	})
	for name, b := range map[string][]byte{
		"v1":                  []byte(v1Line),
		"v1 TCP6":             []byte("PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 2\r\n"),
		"v1 UNKNOWN":          []byte("PROXY UNKNOWN\r\n"),
		"v1 incomplete":       []byte(v1Line[:30]),
		"v2":                  mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4}),
		"v2 INET6":            mustV2(t, Message{Command: CommandProxy, Source: client6, Destination: service6}),
		"v2 TLVs and CRC32C":  full,
		"v2 LOCAL":            mustV2(t, Message{}),
		"v2 half a signature": full[:7],
		"v2 incomplete":       full[:len(full)-1],
	} {
		var o Options
		if n := testing.AllocsPerRun(100, func() {
			h, err := Decode(b, &o)
			if err != nil {
				t.Fatal(err)
			}
			Find(h.TLVs, TypeNetNS)
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func TestReasonTable(t *testing.T) {
	seen := map[string]Reason{}
	for r := Reason(1); r < reasons; r++ {
		if r.String() == "" {
			t.Errorf("reason %d has no words", r)
		}
		if other, ok := seen[r.String()]; ok {
			t.Errorf("reasons %d and %d both read %q", r, other, r)
		}
		seen[r.String()] = r
	}
	for _, v := range vectors(t) {
		if want := v.Expect.Reason; v.Expect.Outcome == "error" {
			if _, ok := seen[want]; !ok {
				t.Errorf("no reason reads %q", want)
			}
		}
	}
	if got := (&Error{ReasonPort, 45}).Error(); got != "PROXY header refused after 45 bytes: port" {
		t.Error(got)
	}
}
