package proxyproto

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
)

const v1Signature = "PROXY "

// decodeV1 decodes a line (specification, section 2.1). It checks the framing
// byte by byte, and the fields once the CRLF has arrived.
func (h *Header) decodeV1(b []byte, o *Options) (Reason, int) {
	if o.RefuseV1 {
		return ReasonV1NotAccepted, 1
	}
	if n := matching(b, v1Signature); n < len(v1Signature) {
		if n < len(b) {
			return ReasonNoSignature, n + 1
		}
		return 0, 0
	}
	if o.RequireChecksum {
		return ReasonV1NoChecksum, len(v1Signature)
	}
	reason, length := frameV1(b)
	if reason != 0 || length == 0 {
		return reason, length
	}
	h.Version, h.Length = 1, length
	return h.readLine(b[len(v1Signature):length-2], o), length
}

// frameV1 returns the length of the line including its CRLF, or 0 if the CRLF has
// not arrived. It refuses a bare CR or LF anywhere, because receivers disagree
// on whether it ends the line.
func frameV1(b []byte) (Reason, int) {
	line := b[:min(len(b), MaxV1)]
	for i := len(v1Signature); i < len(line); i++ {
		if line[i] == '\n' {
			return ReasonBareLF, i + 1
		}
		if line[i] != '\r' {
			continue
		}
		if i+1 == len(line) {
			break
		}
		if line[i+1] != '\n' {
			return ReasonBareCR, i + 2
		}
		return 0, i + 2
	}
	if len(line) == MaxV1 {
		return ReasonV1TooLong, MaxV1
	}
	return 0, 0
}

// readLine reads the part of the line between "PROXY " and CRLF.
func (h *Header) readLine(line []byte, o *Options) Reason {
	protocol, rest, _ := bytes.Cut(line, space)
	switch string(protocol) {
	case "UNKNOWN":
		// The rest must be ignored, even if it looks like addresses.
		h.Result = Unknown
		return 0
	case "TCP4", "TCP6":
	default:
		return ReasonV1Protocol
	}
	var fields [4][]byte
	for i := range fields {
		var more bool
		fields[i], rest, more = bytes.Cut(rest, space)
		if more != (i < len(fields)-1) {
			return ReasonV1Fields
		}
	}
	var addresses [2]netip.Addr
	var ports [2]uint16
	var reason Reason
	for i := range addresses {
		inet6 := string(protocol) == "TCP6"
		if i == 1 && o.MixedFamilies && isOtherFamily(fields[i], inet6) {
			inet6 = !inet6
		}
		if addresses[i], reason = readAddress(fields[i], inet6); reason != 0 {
			return reason
		}
	}
	for i := range ports {
		if ports[i], reason = readPort(fields[2+i]); reason != 0 {
			return reason
		}
	}
	h.Result = Proxy
	h.Source = netip.AddrPortFrom(addresses[0], ports[0])
	h.Destination = netip.AddrPortFrom(addresses[1], ports[1])
	return 0
}

var space = []byte(" ")

// isOtherFamily reports whether s is written like an address of the other family:
// IPv4 if inet6 is true, else IPv6.
func isOtherFamily(s []byte, inet6 bool) bool {
	colon := bytes.IndexByte(s, ':') >= 0
	if inet6 {
		return !colon && bytes.IndexByte(s, '.') >= 0
	}
	return colon
}

func readAddress(s []byte, inet6 bool) (netip.Addr, Reason) {
	if inet6 && !isOtherFamily(s, true) {
		a, reason := readIPv6(s)
		return netip.AddrFrom16(a), reason
	}
	a, reason := readIPv4(s)
	if inet6 && reason == 0 {
		reason = ReasonIPv4InTCP6
	}
	return netip.AddrFrom4(a), reason
}

// readIPv4 reads four decimal octets. It refuses leading zeros, because some
// parsers read them as octal.
func readIPv4(s []byte) (a [4]byte, reason Reason) {
	octet, digits, value := 0, 0, 0
	inRange := true
	for _, c := range s {
		switch {
		case c == '.' && digits > 0 && octet < 3:
			octet, digits, value = octet+1, 0, 0
			continue
		case c < '0' || c > '9' || digits == 3:
			return a, ReasonIPv4Syntax
		case digits > 0 && value == 0:
			inRange = false
		}
		digits++
		value = value*10 + int(c-'0')
		if value > 255 {
			inRange = false
		}
		a[octet] = byte(value)
	}
	if octet < 3 || digits == 0 {
		return a, ReasonIPv4Syntax
	}
	if !inRange {
		return a, ReasonIPv4Octet
	}
	return a, 0
}

// readIPv6 reads an address of eight groups. One "::" may replace one or more
// groups. The last two groups may be written as an IPv4 address, as inet_ntop(3)
// does.
func readIPv6(s []byte) (a [16]byte, reason Reason) {
	if !isIPv6Text(s) {
		return a, ReasonIPv6Charset
	}
	groups := 8
	if bytes.IndexByte(s, '.') >= 0 {
		cut := bytes.LastIndexByte(s, ':') + 1
		tail, reason := readIPv4(s[cut:])
		if reason != 0 {
			return a, reason
		}
		copy(a[12:], tail[:])
		groups = 6
		s = s[:cut]
		// The last colon belongs to the tail, unless it is half of "::".
		if cut < 2 || s[cut-2] != ':' {
			s = s[:cut-1]
		}
	}
	gap := bytes.Index(s, doubleColon)
	if gap < 0 {
		if countGroups(s) != groups {
			return a, ReasonIPv6Groups
		}
		return a, readGroups(a[:2*groups], s)
	}
	left, right := s[:gap], s[gap+2:]
	if bytes.Contains(s[gap+1:], doubleColon) {
		return a, ReasonIPv6DoubleColon
	}
	after := countGroups(right)
	if countGroups(left)+after >= groups {
		return a, ReasonIPv6TooManyGroups
	}
	if reason := readGroups(a[:], left); reason != 0 {
		return a, reason
	}
	return a, readGroups(a[2*(groups-after):], right)
}

var doubleColon = []byte("::")

func isIPv6Text(s []byte) bool {
	for _, c := range s {
		if _, hex := hexDigit(c); !hex && c != ':' && c != '.' {
			return false
		}
	}
	return len(s) > 0
}

func countGroups(s []byte) int {
	if len(s) == 0 {
		return 0
	}
	return bytes.Count(s, doubleColon[:1]) + 1
}

// readGroups reads groups of hexadecimal digits, separated by single colons, into
// a. The caller has counted them: a has room for all.
func readGroups(a, s []byte) Reason {
	for len(s) > 0 {
		group, rest, more := bytes.Cut(s, doubleColon[:1])
		if len(group) == 0 || len(group) > 4 || more && len(rest) == 0 {
			return ReasonIPv6Group
		}
		var value uint16
		for _, c := range group {
			digit, ok := hexDigit(c)
			if !ok { // a dot in a group other than the last
				return ReasonIPv6Group
			}
			value = value<<4 | uint16(digit)
		}
		binary.BigEndian.PutUint16(a, value)
		a, s = a[2:], rest
	}
	return 0
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// readPort reads a number from 0 to 65535 without a sign or leading zeros.
func readPort(s []byte) (uint16, Reason) {
	if len(s) == 0 || len(s) > 5 || len(s) > 1 && s[0] == '0' {
		return 0, ReasonPort
	}
	value := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, ReasonPort
		}
		value = value*10 + int(c-'0')
	}
	if value > math.MaxUint16 {
		return 0, ReasonPort
	}
	return uint16(value), 0
}
