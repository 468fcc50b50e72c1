package transparent

import (
	"encoding/binary"
	"net/netip"
)

// embedding is a well-known form of IPv6 addresses that contain an IPv4 address.
type embedding struct {
	// denied is the reason for denying an address of this form.
	denied string
	// prefix is what addresses of this form begin with.
	prefix netip.Prefix
	// identifier, if set, is what the last 64 bits begin with, under any prefix.
	identifier uint32
	// at is the position of each byte of the IPv4 address.
	at [4]int
	// inverted means that the bits of the IPv4 address are inverted.
	inverted bool
	// skipZero ignores addresses of 0.0.0.0/8: ::1, and the padding where the length
	// of the prefix is not known.
	skipZero bool
}

var (
	// behind96 are the positions behind a prefix of 96 bits.
	behind96 = [4]int{12, 13, 14, 15}
	localUse = netip.MustParsePrefix("64:ff9b:1::/48")
	anywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

	mapped     = netip.PrefixFrom(netip.MustParseAddr("::ffff:0.0.0.0"), 96)
	translated = netip.MustParsePrefix("::ffff:0:0:0/96")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// embeddings are the forms that [Embeds] knows.
var embeddings = [...]embedding{
	// RFC 4291, section 2.5.5.1. Deprecated; software that still supports it
	// treats ::127.0.0.1 as loopback.
	{denied: "IPv4-compatible form of a denied IPv4 address", prefix: compatible, at: behind96, skipZero: true},
	// RFC 4291, section 2.5.5.2. Addresses are unmapped before they come here.
	{denied: "IPv4-mapped form of a denied IPv4 address", prefix: mapped, at: behind96},
	// RFC 2765, section 2.1: SIIT. Deprecated by RFC 6145.
	{denied: "IPv4-translated form of a denied IPv4 address", prefix: translated, at: behind96},
	// RFC 6052, section 2.1.
	{denied: "NAT64 form of a denied IPv4 address", prefix: netip.MustParsePrefix("64:ff9b::/96"), at: behind96},
	// RFC 8215: the operator chooses the length of the prefix; the positions are
	// those of RFC 6052, section 2.2, which leaves out byte 8.
	{denied: "NAT64 form of a denied IPv4 address", prefix: netip.MustParsePrefix("64:ff9b:1::/96"), at: behind96},
	{denied: "NAT64 form of a denied IPv4 address", prefix: localUse, at: [4]int{6, 7, 9, 10}, skipZero: true},
	{denied: "NAT64 form of a denied IPv4 address", prefix: localUse, at: [4]int{7, 9, 10, 11}, skipZero: true},
	{denied: "NAT64 form of a denied IPv4 address", prefix: localUse, at: [4]int{9, 10, 11, 12}, skipZero: true},
	{denied: "NAT64 form of a denied IPv4 address", prefix: localUse, at: behind96, skipZero: true},
	// RFC 3056, section 2.
	{denied: "6to4 form of a denied IPv4 address", prefix: netip.MustParsePrefix("2002::/16"), at: [4]int{2, 3, 4, 5}},
	// RFC 4380, section 4: the client's address, obfuscated.
	{denied: "Teredo form of a denied IPv4 address", prefix: teredo, at: behind96, inverted: true},
	// RFC 5214, section 6.1: with and without the bit for a global IPv4 address.
	{denied: "ISATAP form of a denied IPv4 address", prefix: anywhere, identifier: 0x00005efe, at: behind96},
	{denied: "ISATAP form of a denied IPv4 address", prefix: anywhere, identifier: 0x02005efe, at: behind96},
}

// Embeds returns a reason, which names the form, if the IPv6 address a contains, in a
// well-known form, an IPv4 address for which denied returns true. It returns "" for
// other addresses and for IPv4. It does not allocate unless denied does.
//
// A translator, a relay router or an access list reads such an address as the IPv4
// address in it.
func Embeds(a netip.Addr, denied func(netip.Addr) bool) string {
	if e := embedded(a, denied, false); e != nil {
		return e.denied
	}
	return ""
}

// EmbedsRouted reports whether the IPv6 address a contains an IPv4 address for which match
// returns true, in a form with a prefix of its own. Only the owner of the IPv4 address, or
// its translator, receives what is sent to such an address. An ISATAP identifier says
// less: the owner of any IPv6 network can choose it.
func EmbedsRouted(a netip.Addr, match func(netip.Addr) bool) bool {
	return embedded(a, match, true) != nil
}

// embedded returns the first form in which a contains an IPv4 address that matches, nil if
// there is none.
func embedded(a netip.Addr, match func(netip.Addr) bool, routed bool) *embedding {
	if !a.Is6() {
		return nil
	}
	bytes := a.As16()
	if !mayEmbed(&bytes) {
		return nil
	}
	a = a.WithZone("")
	for i := range embeddings {
		e := &embeddings[i]
		if routed && e.identifier != 0 || !e.matches(a, &bytes) {
			continue
		}
		v4 := e.read(&bytes)
		if e.skipZero && thisNetwork.Contains(v4) {
			continue
		}
		if match(v4) {
			return e
		}
	}
	return nil
}

// MayEmbed reports whether an address may contain an IPv4 address in a well-known form. It
// is false for most clients, whose connections wait for the answer, and spares a caller
// with several lists a call of [Embeds] for each.
func MayEmbed(a netip.Addr) bool {
	if !a.Is6() {
		return false
	}
	bytes := a.As16()
	return mayEmbed(&bytes)
}

// mayEmbed reports whether an address may match an entry of embeddings. It compares halves
// of the address, because every lookup for an IPv6 client waits for it.
func mayEmbed(b *[16]byte) bool {
	network, identifier := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	return network>>56 == 0 || network>>48 == 0x2002 || network>>32 == 0x2001_0000 ||
		identifier>>32&^0x0200_0000 == 0x0000_5efe
}

// matches reports whether an address has the form.
func (e *embedding) matches(a netip.Addr, bytes *[16]byte) bool {
	if e.identifier != 0 {
		return uint32(bytes[8])<<24|uint32(bytes[9])<<16|uint32(bytes[10])<<8|uint32(bytes[11]) == e.identifier
	}
	return e.prefix.Contains(a)
}

// read returns the IPv4 address in an address of the form.
func (e *embedding) read(bytes *[16]byte) netip.Addr {
	var v4 [4]byte
	for i, at := range e.at {
		v4[i] = bytes[at]
		if e.inverted {
			v4[i] ^= 0xff
		}
	}
	return netip.AddrFrom4(v4)
}
