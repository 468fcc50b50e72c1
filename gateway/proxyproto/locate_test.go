package proxyproto

import (
	"errors"
	"strings"
	"testing"
)

// TestLocate has a mark in each input, "^" before the byte at fault.
func TestLocate(t *testing.T) {
	prefix := func(length string) string { return Signature + "\x21\x11" + length }
	addresses := strings.Repeat("a", inetLength)
	longest := "\x05\x00\x80" + strings.Repeat("u", MaxUniqueID)
	tested := map[Reason]bool{}
	for _, row := range []struct {
		in   string
		o    Options
		want Reason
	}{
		{"^GET /", Options{}, ReasonNoSignature},
		{"PROX^\xc3\xa9", Options{}, ReasonNoSignature},
		{"^PROXY", Options{RefuseV1: true}, ReasonV1NotAccepted},
		{"PROXY UNKNOWN^\r UNKNOWN\r\n", Options{}, ReasonBareCR},
		{"PROXY UNKNOWN^\n", Options{}, ReasonBareLF},
		{"PROXY UNKNOWN " + strings.Repeat("x", MaxV1-15) + "^x", Options{}, ReasonV1TooLong},
		{"PROXY ^TCP5 1.2.3.4 1.2.3.4 1 2\r\n", Options{}, ReasonV1Protocol},
		{"PROXY ^\xc3\xa9 1.2.3.4\r\n", Options{}, ReasonV1Protocol},
		{"PROXY TCP4 ^ 1.2.3.4 1.2.3.4 1 2\r\n", Options{}, ReasonV1Fields},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 2^ 3\r\n", Options{}, ReasonV1Fields},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1^\r\n", Options{}, ReasonV1Fields},
		{"PROXY TCP4^\r\n", Options{}, ReasonV1Fields},
		{"PROXY TCP4 ^\r\n", Options{}, ReasonV1Fields},
		{"PROXY TCP4 ^203.0.113 1.2.3.4 1 2\r\n", Options{}, ReasonIPv4Syntax},
		{"PROXY TCP4 1.2.3.4 ^\xc3\xa9 1 2\r\n", Options{}, ReasonIPv4Syntax},
		{"PROXY TCP4 203.0.113.^999 1.2.3.4 1 2\r\n", Options{}, ReasonIPv4Octet},
		{"PROXY TCP4 1.2.3.4 1.^02.3.4 1 2\r\n", Options{}, ReasonIPv4Octet},
		{"PROXY TCP4 255.^256.3.4 1.2.3.4 1 2\r\n", Options{}, ReasonIPv4Octet},
		{"PROXY TCP6 ::1 ::ffff:1.2.3.^256 1 2\r\n", Options{}, ReasonIPv4Octet},
		{"PROXY TCP6 ::1 1.^256.3.4 1 2\r\n", Options{MixedFamilies: true}, ReasonIPv4Octet},
		{"PROXY TCP4 1.2.3.4 ^::1::2 1 2\r\n", Options{MixedFamilies: true}, ReasonIPv6DoubleColon},
		{"PROXY TCP4 1.2.3.4 fe80::1^%eth0 1 2\r\n", Options{MixedFamilies: true}, ReasonIPv6Charset},
		{"PROXY TCP4 1.2.3.4 ^::1 1 2\r\n", Options{}, ReasonIPv4Syntax},
		{"PROXY^ ", Options{RequireChecksum: true}, ReasonV1NoChecksum},
		{"PROXY TCP6 ::1 ^1.2.3.4 1 2\r\n", Options{}, ReasonIPv4InTCP6},
		{"PROXY TCP6 fe80::1^%eth0 ::1 1 2\r\n", Options{}, ReasonIPv6Charset},
		{"PROXY TCP6 ::1 ^::1::2 1 2\r\n", Options{}, ReasonIPv6DoubleColon},
		{"PROXY TCP6 ^1:2:3 ::1 1 2\r\n", Options{}, ReasonIPv6Groups},
		{"PROXY TCP6 ^::1:2:3:4:5:6:7:8 ::1 1 2\r\n", Options{}, ReasonIPv6TooManyGroups},
		{"PROXY TCP6 ^12345::1 ::1 1 2\r\n", Options{}, ReasonIPv6Group},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 ^70000 2\r\n", Options{}, ReasonPort},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 ^02\r\n", Options{}, ReasonPort},
		{"^" + Signature, Options{RefuseV2: true}, ReasonV2NotAccepted},
		{"\r\n\r\n^G", Options{}, ReasonV2Signature},
		{Signature + "^\x11\x11", Options{}, ReasonV2Version},
		{Signature + "^\x22\x11", Options{}, ReasonV2Command},
		{Signature + "\x21^\x41", Options{}, ReasonV2Family},
		{Signature + "\x21^\x13", Options{}, ReasonV2Transport},
		{Signature + "\x21\x11^\x00\x0b", Options{}, ReasonV2ShortBlock},
		{Signature + "\x21\x11^\x00\x0c", Options{MaxLength: 20}, ReasonTooLong},
		{prefix("\x00\x0e") + addresses + "^\x04\x00", Options{}, ReasonStrayBytes},
		{prefix("\x00\x12") + addresses + "\x04\x00\x00" + "^\x02\x00\x01", Options{}, ReasonTLVOverrun},
		{prefix("\x00\x94") + addresses + "\x04\x00\x01x^\x05\x00\x81" + strings.Repeat("u", 129), Options{}, ReasonUniqueID},
		{prefix("\x00\x90") + addresses + "^\x05\x00\x81" + strings.Repeat("u", 129), Options{}, ReasonUniqueID},
		{prefix("\x00\x13") + addresses + "^\x20\x00\x04abcd", Options{}, ReasonSSLShort},
		{prefix("\x00\x15") + addresses + "^\x20\x00\x06abcdef", Options{}, ReasonStrayBytes},
		{prefix("\x00\x17") + addresses + "^\x20\x00\x08abcde\x21\x00\x01", Options{}, ReasonTLVOverrun},
		{prefix("\x00\x12") + addresses + "^\x03\x00\x03abc", Options{}, ReasonChecksumLength},
		{prefix("\x00\x19") + addresses + "\x03\x00\x04abcd^\x03\x00\x03abc", Options{}, ReasonChecksumLength},
		{prefix("\x00\x14") + addresses + "^\x03\x00\x05abcde", Options{}, ReasonChecksumLength},
		{prefix("\x01\x13") + addresses + longest + "^\x05\x00\x81" + strings.Repeat("u", 129), Options{}, ReasonUniqueID},
		{prefix("\x00\x1a") + addresses + "\x03\x00\x04abcd^\x03\x00\x04abcd", Options{}, ReasonChecksumTwice},
		{prefix("\x00\x17") + addresses + "\x02\x00\x01x\x03\x00\x04^abcd", Options{}, ReasonChecksumWrong},
		{prefix("\x00\x13") + addresses + "\x03\x00\x04^abcd", Options{}, ReasonChecksumWrong},
		{prefix("\x00\x0c") + addresses[1:] + "^a", Options{RequireChecksum: true}, ReasonChecksumMissing},
		{"^ping", Options{Datagram: true}, ReasonDatagramSignature},
		{prefix("\x00\x0c") + "a^a", Options{Datagram: true}, ReasonDatagramShort},
		{"", Options{Datagram: true}, ReasonDatagramShort},
	} {
		tested[row.want] = true
		at := strings.Index(row.in, "^")
		in := []byte(strings.Replace(row.in, "^", "", 1))
		_, err := Decode(in, &row.o)
		e := refusal(t, err)
		if e.Reason != row.want {
			t.Errorf("%q: %v, want %v", row.in, e.Reason, row.want)
			continue
		}
		if got := e.Locate(in); got != at {
			t.Errorf("%q: %v at %d, want %d", row.in, e.Reason, got, at)
		}
	}
	for r := Reason(1); r < reasons; r++ {
		if !tested[r] {
			t.Errorf("no row for %q", r)
		}
	}
}

// The fault in each refused vector lies within the bytes that decided it.
func TestLocateVectors(t *testing.T) {
	for _, v := range vectors(t) {
		var e *Error
		b := v.bytes(t)
		if _, err := Decode(b, &Options{Datagram: v.Kind == "udp"}); !errors.As(err, &e) {
			continue
		}
		if at := e.Locate(b); at < 0 || at >= e.Offset {
			t.Errorf("%s: %v at %d, refused after %d", v.Name, e.Reason, at, e.Offset)
		}
	}
}
