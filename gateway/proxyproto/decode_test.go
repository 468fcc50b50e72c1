package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/allocations"
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
		{"v2 refused at its first byte", plain[:1], Options{RefuseV2: true}, 0, "v2 not accepted", 1},
		{"empty datagram while v2 is refused", "", Options{Datagram: true, RefuseV2: true}, 0, "header does not fit its datagram", 0},
		{"v1 while v2 is refused", v1Line, Options{RefuseV2: true}, Proxy, "", 0},
		{"neither, while both are refused", "GET", Options{RefuseV1: true, RefuseV2: true}, 0, "no PROXY signature", 1},
		{"as long as allowed", plain, Options{MaxLength: 28}, Proxy, "", 0},
		{"longer than allowed", plain, Options{MaxLength: 27}, 0, "header longer than allowed", 16},
		{"longer than allowed, LOCAL", local, Options{MaxLength: 15}, 0, "header longer than allowed", 16},
		{"longer than allowed, by all but one byte", local, Options{MaxLength: 1}, 0, "header longer than allowed", 16},
		{"v1 has its own limit", v1Line, Options{MaxLength: 16}, Proxy, "", 0},
		{"checksum present", summed, Options{RequireChecksum: true}, Proxy, "", 0},
		{"checksum missing", plain, Options{RequireChecksum: true}, 0, "CRC32C missing", 28},
		{"checksum missing, UNSPEC", unspec, Options{RequireChecksum: true}, 0, "CRC32C missing", 16},
		{"checksum missing, LOCAL", local, Options{RequireChecksum: true}, 0, "CRC32C missing", 16},
		{"checksum and v1", v1Line, Options{RequireChecksum: true}, 0, "CRC32C required, and v1 has none", 6},
		{"checksum and UNKNOWN", "PROXY UNKNOWN\r\n", Options{RequireChecksum: true}, 0, "CRC32C required, and v1 has none", 6},
		{"checksum and no v1", "POST / HTTP/1.1\r\n", Options{RequireChecksum: true}, 0, "no PROXY signature", 2},
		{"checksum and half a signature", "PROXY", Options{RequireChecksum: true}, Incomplete, "", 0},
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

// The lines that nginx 1.22 sends once its realip module has replaced the client
// (TestNginxMixedFamilies of integration_test): the keyword is the client's family,
// the destination is the address that nginx accepted the connection on. The other
// way round is no line of nginx and stays refused.
func TestMixedFamilies(t *testing.T) {
	const inTCP6 = "ipv4 address in a TCP6 line"
	for _, row := range []struct {
		line            string
		destination     string // as decoded with the option
		strict, lenient string // reasons
	}{
		{"TCP4 192.0.2.9 ::1 4711 17102", "[::1]:17102", "ipv4 syntax", ""},
		{"TCP4 192.0.2.9 ::ffff:127.0.0.1 4711 1001", "[::ffff:127.0.0.1]:1001", "ipv4 syntax", ""},
		{"TCP6 2001:db8::9 127.0.0.1 4711 1000", "127.0.0.1:1000", inTCP6, ""},
		{"TCP6 ::ffff:192.0.2.9 127.0.0.1 4711 1000", "127.0.0.1:1000", inTCP6, ""},
		{"TCP6 2001:db8::9 ::ffff:127.0.0.1 4711 1001", "[::ffff:127.0.0.1]:1001", "", ""},
		{"TCP4 192.0.2.9 127.0.0.1 4711 1000", "127.0.0.1:1000", "", ""},
		{"TCP4 192.0.2.9 unix:/run/nginx.sock 4711 0", "", "ipv4 syntax", "ipv6 charset"},
		{"TCP6 2001:db8::9 unix:/run/nginx.sock 4711 0", "", "ipv6 charset", "ipv6 charset"},

		{"TCP4 ::1 192.0.2.9 1 2", "", "ipv4 syntax", "ipv4 syntax"},
		{"TCP4 ::1 ::1 1 2", "", "ipv4 syntax", "ipv4 syntax"},
		{"TCP4 ::ffff:192.0.2.9 ::1 1 2", "", "ipv4 syntax", "ipv4 syntax"},
		{"TCP6 192.0.2.9 ::1 1 2", "", inTCP6, inTCP6},
		{"TCP6 192.0.2.9 192.0.2.9 1 2", "", inTCP6, inTCP6},
		{"TCP4 192.0.2.9 1::2::3 1 2", "", "ipv4 syntax", "ipv6 double colon"},
		{"TCP4 192.0.2.9 fe80::1%eth0 1 2", "", "ipv4 syntax", "ipv6 charset"},
		{"TCP4 192.0.2.9 [::1] 1 2", "", "ipv4 syntax", "ipv6 charset"},
		{"TCP4 192.0.2.9 localhost 1 2", "", "ipv4 syntax", "ipv4 syntax"},
		{"TCP6 ::1 192.0.2.01 1 2", "", "ipv4 octet", "ipv4 octet"},
		{"TCP6 ::1 192.0.2 1 2", "", "ipv4 syntax", "ipv4 syntax"},
		{"TCP6 ::1 3221225985 1 2", "", "ipv6 group count", "ipv6 group count"},
		{"TCP6 ::1 192.0.2.9 1 65536", "", inTCP6, "port"},
	} {
		line := "PROXY " + row.line + "\r\n"
		for _, mixed := range []bool{false, true} {
			want := row.strict
			if mixed {
				want = row.lenient
			}
			h, err := Decode([]byte(line), &Options{MixedFamilies: mixed})
			if want != "" {
				if e := refusal(t, err); e.Reason.String() != want || e.Offset != len(line) {
					t.Errorf("%q mixed %v: %v, want %s", line, mixed, err, want)
				}
				continue
			}
			source := strings.Fields(row.line)[1]
			if err != nil || h.Source.Addr() != netip.MustParseAddr(source) || h.Destination.String() != row.destination {
				t.Errorf("%q mixed %v: %v %v, %v", line, mixed, h.Source, h.Destination, err)
			}
		}
	}
}

// A required checksum is required of every header. LOCAL and UNSPEC have it where
// HAProxy (make_proxy_line_v2) and AWS's health checks put it, at the beginning of
// the opaque block, or after the addresses of a family.
func TestRequiredChecksumOfOpaqueBlocks(t *testing.T) {
	sum, noop := TLV{TypeCRC32C, make([]byte, 4)}, TLV{TypeNOOP, []byte("x")}
	for _, row := range []struct {
		name     string
		protocol byte
		before   string // in front of the TLVs
		tlvs     []TLV
		want     string // "" for accepted
	}{
		{"HAProxy", 0, "", []TLV{sum}, ""},
		{"HAProxy with a unique id", 0, "", []TLV{sum, {TypeUniqueID, []byte("id")}}, ""},
		{"AWS", ProtocolTCP4, "", []TLV{sum, {TypeNOOP, make([]byte, 74)}}, ""},
		{"after IPv4 addresses", ProtocolTCP4, strings.Repeat("a", inetLength), []TLV{noop, sum}, ""},
		{"after IPv6 addresses", ProtocolTCP6, strings.Repeat("a", inet6Length), []TLV{sum}, ""},
		{"after paths", ProtocolUnixStream, strings.Repeat("a", unixLength), []TLV{sum, noop}, ""},
		{"family without transport", 0x10, strings.Repeat("a", inetLength), []TLV{sum}, ""},
		{"behind other bytes", 0, "abcde", []TLV{sum}, "CRC32C missing"},
		{"followed by a stray byte", 0, "\x04\x00\x00", []TLV{sum, {TypeNOOP, nil}, {0xff, nil}}, ""},
		{"none", ProtocolTCP4, strings.Repeat("a", inetLength), []TLV{noop}, "CRC32C missing"},
		{"empty block", 0, "", nil, "CRC32C missing"},
		{"twice", 0, "", []TLV{sum, sum}, "CRC32C missing"},
		{"three bytes", 0, "", []TLV{{TypeCRC32C, []byte("abc")}}, "CRC32C missing"},
	} {
		for _, command := range []Command{CommandLocal, CommandProxy} {
			if command == CommandProxy && addressLength(row.protocol) > 0 {
				continue // not opaque
			}
			b := append([]byte(Signature), 0x20|byte(command), row.protocol, 0, 0)
			b, err := appendTLVs(append(b, row.before...), row.tlvs)
			if err != nil {
				t.Fatal(err)
			}
			binary.BigEndian.PutUint16(b[14:], uint16(len(b)-fixedLength))
			at := bytes.Index(b[fixedLength:], []byte("\x03\x00\x04\x00\x00\x00\x00"))
			if at >= 0 {
				at += fixedLength + tlvFixedLength
				binary.BigEndian.PutUint32(b[at:], slowCRC32C(b))
			}
			for _, o := range []Options{{RequireChecksum: true}, {RequireChecksum: true, Datagram: true}} {
				name := fmt.Sprintf("%s, command %d, datagram %v", row.name, command, o.Datagram)
				h, err := Decode(b, &o)
				if row.want != "" {
					if e := refusal(t, err); e.Reason.String() != row.want || e.Offset != len(b) || e.Reason.Class() != BadChecksum {
						t.Errorf("%s: %v, want %s", name, err, row.want)
					}
					continue
				}
				if err != nil || !h.Checksum || h.Result == Proxy || h.TLVs != nil {
					t.Errorf("%s: %+v, %v", name, h, err)
				}
				wrong := bytes.Clone(b)
				wrong[at] ^= 1
				e := refusal(t, second(Decode(wrong, &o)))
				if e.Reason != ReasonChecksumWrong || e.Locate(wrong) != at {
					t.Errorf("%s, wrong: %v at %d, want it at %d", name, e, e.Locate(wrong), at)
				}
			}
			// Not required, the block stays opaque.
			if h, err := Decode(b, nil); err != nil || h.Checksum {
				t.Errorf("%s, not required: %+v, %v", row.name, h, err)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

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
		got, reason := readAddress(s, true)
		if valid != (reason == 0) || valid && got != want {
			t.Fatalf("%q: %v, reason %q; net/netip: %v, %v", s, got, reason, want, err)
		}
		want, err = netip.ParseAddr(string(s))
		valid = err == nil && want.Is4()
		got, reason = readAddress(s, false)
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
		"64:ff9b::192.0.2.33", "::192.0.2.33", "1:2::192.0.2.33", "1::", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "192.0.2.255",
	} {
		for i := range real {
			check([]byte(real[:i] + real[i+1:]))
			for _, c := range "09afgAFG@`/:.% " { // with the neighbours of digits
				check([]byte(real[:i] + string(c) + real[i:]))
				check([]byte(real[:i] + string(c) + real[i+1:]))
			}
		}
	}
}

// Every port is read back, and nothing else is a port.
func TestPorts(t *testing.T) {
	for port := range 65536 {
		line := fmt.Sprintf("PROXY TCP4 192.0.2.1 192.0.2.2 %d %d\r\n", port, 65535-port)
		h, err := Decode([]byte(line), nil)
		if err != nil || int(h.Source.Port()) != port || int(h.Destination.Port()) != 65535-port {
			t.Fatalf("%q: %v, %v, %v", line, h.Source, h.Destination, err)
		}
	}
	for _, port := range []string{"", "65536", "65540", "99999", "100000", "4294967297", "01", "00", "+1", "1a", "1/", "1:", "1.0", "0x1"} {
		_, err := Decode([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 "+port+"\r\n"), nil)
		if e := refusal(t, err); e.Reason != ReasonPort && (port != "" || e.Reason != ReasonV1Fields) {
			t.Errorf("%q: %v", port, e)
		}
	}
}

// A byte behind the last TLV is refused, alone or not. In an opaque block it means that the
// block holds no TLVs; so does a byte in front, if the family has no addresses.
func TestStrayByte(t *testing.T) {
	addresses := strings.Repeat("a", inetLength)
	for _, block := range []string{addresses + "\x04", addresses + "\x04\x00\x00\x04"} {
		b := append([]byte(Signature), 0x21, ProtocolTCP4, 0, byte(len(block)))
		if e := refusal(t, second(Decode(append(b, block...), nil))); e.Reason != ReasonStrayBytes {
			t.Errorf("%q: %v", block, e)
		}
	}
	const sum = "\x03\x00\x04\x00\x00\x00\x00"
	for _, row := range []struct {
		block string
		want  string
	}{
		{sum, "local"},
		{sum + "\x04", "CRC32C missing"},
		{"\x04" + sum, "CRC32C missing"},
	} {
		b := append([]byte(Signature), 0x20, 0x40, 0, byte(len(row.block)))
		b = append(b, row.block...)
		binary.BigEndian.PutUint32(b[bytes.Index(b, []byte(sum))+tlvFixedLength:], slowCRC32C(b))
		if got := answer(Decode(b, &Options{RequireChecksum: true})); got != row.want {
			t.Errorf("%q: %s, want %s", row.block, got, row.want)
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

// What follows an SSL TLV is checked like what is in front of it.
func TestTLVsBehindSSL(t *testing.T) {
	ssl, err := SSLTLV(SSL{Client: ClientTLS}, TLV{TypeSSLVersion, []byte("TLSv1.3")})
	if err != nil {
		t.Fatal(err)
	}
	m := Message{Command: CommandProxy, Source: client4, Destination: service4, TLVs: []TLV{ssl}, Checksum: true}
	good := mustV2(t, m)
	if h, err := Decode(good, &Options{RequireChecksum: true}); err != nil || !h.Checksum || h.Result != Proxy {
		t.Errorf("%+v, %v", h, err)
	}
	wrong := bytes.Clone(good)
	wrong[len(wrong)-1] ^= 1
	if e := refusal(t, second(Decode(wrong, nil))); e.Reason != ReasonChecksumWrong {
		t.Errorf("a wrong checksum: %v", e)
	}
	m.TLVs, m.Checksum = append(m.TLVs, TLV{TypeUniqueID, make([]byte, MaxUniqueID+1)}), false
	if e := refusal(t, second(Decode(mustV2(t, m), nil))); e.Reason != ReasonUniqueID {
		t.Errorf("a long UNIQUE_ID: %v", e)
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
		if n := allocations.PerRun(100, func() {
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
