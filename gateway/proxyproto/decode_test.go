package proxyproto

import (
	"bytes"
	"encoding/binary"
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

// refusal returns the refusal in err, or fails.
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
	for _, row := range []struct {
		name   string
		in     string
		o      Options
		want   Result
		reason string
		offset int
	}{
		{"v1 refused", v1Line, Options{RefuseV1: true}, 0, "v1 not accepted", 1},
		{"v2 where v1 is refused", plain, Options{RefuseV1: true}, Proxy, "", 0},
		{"v2 refused", plain, Options{RefuseV2: true}, 0, "v2 not accepted", 1},
		{"v1 where v2 is refused", v1Line, Options{RefuseV2: true}, Proxy, "", 0},
		{"neither, where both are refused", "GET", Options{RefuseV1: true, RefuseV2: true}, 0, "no PROXY signature", 1},
		{"as long as allowed", plain, Options{MaxLength: 28}, Proxy, "", 0},
		{"longer than allowed", plain, Options{MaxLength: 27}, 0, "header longer than allowed", 16},
		{"longer than allowed, LOCAL", local, Options{MaxLength: 15}, 0, "header longer than allowed", 16},
		{"v1 has its own limit", v1Line, Options{MaxLength: 16}, Proxy, "", 0},
		{"checksum there", summed, Options{RequireChecksum: true}, Proxy, "", 0},
		{"checksum missing", plain, Options{RequireChecksum: true}, 0, "CRC32C missing", 28},
		{"checksum missing, UNSPEC", unspec, Options{RequireChecksum: true}, 0, "CRC32C missing", 16},
		{"checksum and LOCAL", local, Options{RequireChecksum: true}, Local, "", 0},
		{"checksum and v1", v1Line, Options{RequireChecksum: true}, Proxy, "", 0},
		{"UDP on TCP", string(mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4, Datagram: true})), Options{}, Unknown, "", 0},
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
				t.Fatalf("refused after %d bytes: %v, want after %d: %s", e.Offset, e.Reason, row.offset, row.reason)
			}
		})
	}
}

// nginx sends such lines after its realip module has changed the client's
// address to one of the other family.
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
			if err != nil || h.Source.Addr() != netip.MustParseAddr(row.source) || h.Destination.Addr() != netip.MustParseAddr(row.destination) {
				t.Errorf("%q lenient %v: %v %v, %v", line, lenient, h.Source, h.Destination, err)
			}
		}
		if _, err := Decode([]byte(strings.Replace(line, "TCP6", "TCP4", 1)), &Options{IPv4InTCP6: true}); err == nil && strings.Contains(line, ":") {
			t.Errorf("%q was taken as TCP4", line)
		}
	}
}

// TestReasonsBeyondTheVectors holds refusals that the vectors do not name.
func TestReasonsBeyondTheVectors(t *testing.T) {
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

// TestIPv6AgainstNetip takes every text of up to seven characters of a small
// alphabet, and mutations of real addresses, to net/netip's parser.
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

// TestVersionAndCommandByte sweeps the 13th byte (specification, section 2.2:
// "only values of 2 … receivers must drop … unexpected values").
func TestVersionAndCommandByte(t *testing.T) {
	b := mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4})
	for value := range 256 {
		b[12] = byte(value)
		h, err := Decode(b, nil)
		switch value {
		case 0x20, 0x21:
			if want := []Result{Local, Proxy}[value&1]; err != nil || h.Result != want {
				t.Errorf("0x%02x: %v, %v, want %v", value, h.Result, err, want)
			}
			continue
		}
		want := "v2 version"
		if value>>4 == 2 {
			want = "v2 command"
		}
		if e := refusal(t, err); e.Offset != 13 || e.Reason.String() != want || e.Reason.Class() != Unsupported {
			t.Errorf("0x%02x: %v, want %s after 13", value, err, want)
		}
	}
}

// TestProtocolByte sweeps the 14th byte with a block that is long enough for
// every family, and with an empty one.
func TestProtocolByte(t *testing.T) {
	for _, datagram := range []bool{false, true} {
		for value := range 256 {
			long := append([]byte(signature), 0x21, byte(value), 0, unixLength)
			long = append(long, make([]byte, unixLength)...)
			short := append([]byte(signature), 0x21, byte(value), 0, 0)
			o := &Options{Datagram: datagram}
			wantLong, wantShort := protocolOracle(byte(value), datagram)
			if got := answer(Decode(long, o)); got != wantLong {
				t.Errorf("0x%02x datagram %v, long block: %s, want %s", value, datagram, got, wantLong)
			}
			if got := answer(Decode(short, o)); got != wantShort {
				t.Errorf("0x%02x datagram %v, empty block: %s, want %s", value, datagram, got, wantShort)
			}
			long[12], short[12] = 0x20, 0x20
			for _, b := range [][]byte{long, short} {
				if got := answer(Decode(b, o)); got != "local" {
					t.Errorf("LOCAL 0x%02x: %s", value, got)
				}
			}
		}
	}
}

// protocolOracle is section 2.2 of the specification as a list.
func protocolOracle(value byte, datagram bool) (long, short string) {
	const none = "length shorter than the address block"
	switch value {
	case 0x00, 0x01, 0x02, 0x10, 0x20, 0x30:
		return "unknown", "unknown"
	case 0x11, 0x21, 0x12, 0x22:
		if (value&0x0f == 2) == datagram {
			return "proxy", none
		}
		return "unknown", none
	case 0x31, 0x32:
		return "unknown", none
	}
	if value>>4 > 3 {
		return "v2 address family", "v2 address family"
	}
	return "v2 transport", "v2 transport"
}

func answer(h Header, err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason.String()
	}
	return h.Result.String()
}

// TestBitFlips flips each bit of a header with a checksum. What is not caught
// is what a checksum cannot catch: headers that are opaque or incomplete with
// the bit flipped, and the checksum's own type.
func TestBitFlips(t *testing.T) {
	header := mustV2(t, Message{
		Command: CommandProxy, Source: client4, Destination: service4,
		TLVs: []TLV{authority}, Checksum: true,
	})
	sumType := len(header) - 7
	counts := map[string]int{}
	for bit := range len(header) * 8 {
		b := bytes.Clone(header)
		b[bit/8] ^= 1 << (bit % 8)
		got := answer(Decode(b, nil))
		switch {
		case bit/8 == sumType:
			if got != "proxy" {
				t.Errorf("bit %d of the checksum's type: %s", bit%8, got)
			}
			if got := answer(Decode(b, &Options{RequireChecksum: true})); got != "CRC32C missing" {
				t.Errorf("bit %d of the checksum's type where one is required: %s", bit%8, got)
			}
		case got == "proxy":
			t.Errorf("bit %d of byte %d went unnoticed", bit%8, bit/8)
		}
		counts[got]++
	}
	for _, want := range []struct {
		answer string
		count  int
	}{{"proxy", 8}, {"local", 1}, {"unknown", 2}} {
		if counts[want.answer] != want.count {
			t.Errorf("%d flips end in %q, want %d", counts[want.answer], want.answer, want.count)
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
				t.Errorf("Missing(%q) = %d, but %d are enough", whole[:n], got, len(whole)-n)
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

// Nested SSL values and tens of thousands of empty ones have brought other
// decoders down (CVE-2022-41881): they take one walk here.
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

func TestDecodeKeepsItsInput(t *testing.T) {
	b := mustV2(t, Message{Command: CommandProxy, Source: client6, Destination: service6, TLVs: []TLV{authority}, Checksum: true})
	before := bytes.Clone(b)
	h, err := Decode(b, nil)
	if err != nil || !bytes.Equal(b, before) {
		t.Fatalf("input changed, or %v", err)
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
	full := mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4, TLVs: []TLV{authority, ssl}, Checksum: true})
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
			t.Errorf("%s: %v allocations", name, n)
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

func TestChecksumOfKnownBytes(t *testing.T) {
	// The check value of CRC-32C is E3069283 over "123456789"; with four
	// zeros in front it must equal the sum of nine bytes behind a blank sum.
	b := append([]byte{9, 9, 9, 9}, "123456789"...)
	zeroed := append([]byte{0, 0, 0, 0}, "123456789"...)
	if got, want := checksum(b, 0), slowCRC32C(zeroed); got != want {
		t.Errorf("checksum = %08x, want %08x", got, want)
	}
	if got := slowCRC32C([]byte("123456789")); got != 0xe3069283 {
		t.Errorf("oracle = %08x", got)
	}
	if binary.BigEndian.Uint32(b) != 0x09090909 {
		t.Error("checksum changed its input")
	}
}

// slowCRC32C is CRC-32C bit by bit.
func slowCRC32C(b []byte) uint32 {
	sum := ^uint32(0)
	for _, c := range b {
		sum ^= uint32(c)
		for range 8 {
			sum = sum>>1 ^ 0x82f63b78*(sum&1)
		}
	}
	return ^sum
}
