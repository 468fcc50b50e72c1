package transparent

import "net/netip"

var (
	// thisNetwork is 0.0.0.0/8 (RFC 791). Linux turns 0.0.0.0 into 127.0.0.1; the
	// others are not host addresses either (RFC 1122, section 3.2.1.3).
	thisNetwork = netip.PrefixFrom(netip.AddrFrom4([4]byte{}), 8)
	broadcast   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	// compatible is the deprecated range of IPv4-compatible addresses (RFC 4291,
	// section 2.5.5.1), all of which are denied.
	compatible = netip.PrefixFrom(netip.IPv6Unspecified(), 96)
)

// denied returns the reason why a header must not name a for a connection to
// backend, or "". Both addresses must be unmapped.
//
// This prevents impersonation of localhost. bind(2) with IP_TRANSPARENT accepts
// unspecified, multicast and broadcast addresses but leaves the source open
// (__inet_bind sets inet_saddr to 0, __inet6_bind does not set np->saddr).
// connect(2) to a local backend then fills in 127.0.0.1 or ::1, so the author of
// the header would be localhost to the backend.
func (p *Policy) denied(a, backend netip.Addr) string {
	switch {
	case !a.IsValid():
		return "invalid address"
	case a.Zone() != "":
		// Allow does not apply: a zone is one of the gateway's interfaces,
		// which no other host can name, and Bind does not pass one.
		return "address with a zone"
	}
	if reason := p.replaced(a); reason != "" {
		// Allow does not apply: the kernel would connect from another address.
		return reason
	}
	reason := class(a)
	if reason == "" {
		reason = p.taken(a, backend)
	}
	if reason == "" {
		reason = p.embeds(a, backend)
	}
	if reason != "" && p.Allow != nil && p.Allow.Contains(a) {
		return ""
	}
	return reason
}

// replaced returns a reason if the kernel does not connect from a, even if a socket
// is bound to it, or "".
func (p *Policy) replaced(a netip.Addr) string {
	switch {
	case unspecified(a):
		return "unspecified"
	case a.IsMulticast():
		return "multicast"
	case a == broadcast:
		return "broadcast"
	case p.Replaced != nil && p.Replaced.Contains(a):
		return "the gateway's own address"
	}
	return ""
}

func unspecified(a netip.Addr) bool { return a.IsUnspecified() || a.Is4() && thisNetwork.Contains(a) }

// class returns the class of addresses that makes a a denied source on any
// gateway, or "".
func class(a netip.Addr) string {
	switch {
	case a.IsLoopback():
		return "loopback"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case compatible.Contains(a):
		return "IPv4-compatible"
	}
	return ""
}

// embeds returns a reason if a contains an IPv4 address that a header must not
// name, or "". Stand-ins of such an address are among them.
func (p *Policy) embeds(a, backend netip.Addr) string {
	denied := func(v4 netip.Addr) bool { return v4 == backend || p.Denies(v4) }
	reason := Embeds(a, denied)
	if reason == "" && p.MapPrefix.IsValid() && p.MapPrefix.Contains(a) && denied(last32(a)) {
		return "stand-in of a denied IPv4 address"
	}
	return reason
}

// last32 returns the last 32 bits of an IPv6 address as an IPv4 address.
func last32(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// Denies reports whether an address is one that no header should name, whatever the
// backend is: it belongs to a special class or to the gateway. It does not consider
// Allow or what a contains. a must be unmapped.
func (p *Policy) Denies(a netip.Addr) bool {
	return p.replaced(a) != "" || class(a) != "" || p.Own != nil && p.Own.Contains(a)
}

// scoped reports whether the IPv6 address a is ambiguous without a zone.
func scoped(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast()
}

// taken returns a reason if a is an address of the backend or the gateway, or "".
func (p *Policy) taken(a, backend netip.Addr) string {
	switch {
	case a == backend:
		return "the backend's own address"
	case p.Own != nil && p.Own.Contains(a):
		return "the gateway's own address"
	}
	return ""
}

// Parameters of the 64-bit FNV-1a hash
// (http://www.isthe.com/chongo/tech/comp/fnv/). Package hash/fnv would allocate.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// hostMask selects the host part of 240.0.0.0/4.
const hostMask = 1<<28 - 1

// mapPrefixBits is the length of a prefix that an IPv4 address fits behind.
const mapPrefixBits = 96

// wellKnown is the default of [Policy.MapPrefix] (RFC 6052, section 2.1).
var wellKnown = netip.MustParsePrefix("64:ff9b::/96")

// CheckMapPrefix returns why p cannot be a [Policy.MapPrefix], or "".
func CheckMapPrefix(p netip.Prefix) string {
	a := p.Addr()
	switch {
	case !p.IsValid() || !a.Is6() || p.Bits() != mapPrefixBits || p != p.Masked():
		return "is not an IPv6 prefix of 96 bits"
	case a.Is4In6():
		return "is IPv4-mapped: the kernel takes its addresses for IPv4"
	case class(a) != "":
		return "consists of " + class(a) + " addresses"
	case a.IsMulticast():
		return "consists of multicast addresses"
	}
	return ""
}

// StandIn returns the address of the other family that stands in for client when
// the backend does not support the client's family. The result depends on client
// and MapPrefix alone and is the same in every release.
//
// For an IPv4 client it is the address behind MapPrefix, from which the client's
// address can be recovered (RFC 6052, section 2.2).
//
// For an IPv6 client it is an address of 240.0.0.0/4, the reserved class E
// (RFC 1112), which no real client has: the 64-bit FNV-1a hash of the 16 bytes of
// the address, folded to 28 bits by XOR, with 255.255.255.254 in place of the
// broadcast address. It tells clients apart in a log but is no proof of identity:
// clients can collide, and an IPv6 client that owns a prefix can choose its
// stand-in. Do not grant rights by it.
func (p *Policy) StandIn(client netip.Addr) netip.Addr {
	client = client.Unmap()
	if client.Is4() {
		prefix := p.MapPrefix
		if !prefix.IsValid() {
			prefix = wellKnown
		}
		a, v4 := prefix.Addr().As16(), client.As4()
		copy(a[12:], v4[:])
		return netip.AddrFrom16(a)
	}
	h := uint64(fnvOffset)
	for _, b := range client.As16() {
		h = (h ^ uint64(b)) * fnvPrime
	}
	h = (h ^ h>>28 ^ h>>56) & hostMask
	if h == hostMask {
		h--
	}
	return netip.AddrFrom4([4]byte{0xf0 | byte(h>>24), byte(h >> 16), byte(h >> 8), byte(h)})
}
