package doctor

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// The headers of packets, in hex: IPv4 from 10.9.0.1 without and with an option,
// IPv6 from fd09::1, and TCP from port 32769 (0x8001) to 25.
const (
	ip4        = "4500003c000040004006 0000 0a090001 0a090002"
	ip4Options = "46000040000040004006 0000 0a090001 0a090002 01010100"
	ip6        = "6000000000280640 fd090000000000000000000000000001 fd090000000000000000000000000002"
	tcpSYN     = "80010019 00000001 00000000 %s02ffff 00000000"
)

// parseSYN returns the source and the maximum segment size of a packet, or false if it
// has no such option. It does not panic on malformed packets.
func TestParseSYN(t *testing.T) {
	tcp := func(offset, options string) string { return strings.Replace(tcpSYN, "%s", offset, 1) + options }
	for _, tt := range []struct {
		name, packet string
		source       string // "" if there is no such option
		mss          uint16
	}{
		{"IPv4", ip4 + tcp("60", "0204021d"), "10.9.0.1:32769", 541},
		{"IPv4 with options", ip4Options + tcp("60", "0204021d"), "10.9.0.1:32769", 541},
		{"IPv6", ip6 + tcp("60", "0204021d"), "[fd09::1]:32769", 541},
		{"after other options (RFC 9293, section 3.1)", ip4 + tcp("80", "0101 0402 0303 07 00"+"0204021d"), "", 0},
		{"after padding and SACK permitted", ip4 + tcp("70", "0101 0402 0204021d"), "10.9.0.1:32769", 541},
		{"no options", ip4 + tcp("50", ""), "", 0},
		{"behind the end of the options", ip4 + tcp("60", "00000000 0204021d"), "", 0},
		{"behind the header", ip4 + tcp("50", "0204021d"), "", 0},
		{"a length of 0", ip4 + tcp("60", "03000000"), "", 0},
		{"a length of 1", ip4 + tcp("60", "03010000"), "", 0},
		{"longer than the options", ip4 + tcp("60", "03ff0000"), "", 0},
		{"a cut option", ip4 + tcp("60", "02"), "", 0},
		{"a data offset of 0", ip4 + tcp("00", ""), "", 0},
		{"a data offset beyond the packet", ip4 + tcp("f0", "0101"), "", 0},
		{"an IPv4 header of length 0", "40" + (ip4 + tcp("60", "0204021d"))[2:], "", 0},
		{"nothing", "", "", 0},
	} {
		packet, err := hex.DecodeString(strings.ReplaceAll(tt.packet, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		source, mss, ok := parseSYN(packet)
		want := netip.AddrPort{}
		if tt.source != "" {
			want = ap(tt.source)
		}
		if ok != (tt.source != "") || ok && (source != want || mss != tt.mss) {
			t.Errorf("%s: %v, %d, %v; want %q, %d", tt.name, source, mss, ok, tt.source, tt.mss)
		}
		for n := range packet { // truncated at every length
			parseSYN(packet[:n])
		}
	}
}
