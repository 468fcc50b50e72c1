package transparent

import "net/netip"

var (
	// thisNetwork is RFC 791's 0.0.0.0/8. Only 0.0.0.0 itself is known to
	// arrive as 127.0.0.1; the rest is no host's address either (RFC 1122,
	// 3.2.1.3).
	thisNetwork = netip.PrefixFrom(netip.AddrFrom4([4]byte{}), 8)
	broadcast   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	// compatible is the range of the IPv4-compatible addresses, which RFC
	// 4291 2.5.5.1 withdrew. Software that still reads them sees ::127.0.0.1
	// as loopback.
	compatible = netip.PrefixFrom(netip.IPv6Unspecified(), 96)
)

// denied returns why a header may not name a, for a connection to backend; ""
// if it may. Both are unmapped.
//
// The classes are more than fussiness. bind(2) with IP_TRANSPARENT takes an
// unspecified, multicast or broadcast address but leaves the source open
// (__inet_bind sets inet_saddr to 0, __inet6_bind does not set np->saddr), and
// connect(2) to a local backend then fills in 127.0.0.1 or ::1: whoever writes
// the header would be localhost to the backend.
func (p *Policy) denied(a, backend netip.Addr) string {
	switch {
	case !a.IsValid():
		return "invalid address"
	case a.Zone() != "":
		// Not to be lifted: a zone is one of the gateway's interfaces, of
		// which nobody outside can speak, and Bind carries none.
		return "address with a zone"
	}
	reason := class(a)
	if reason == "" {
		reason = p.taken(a, backend)
	}
	if reason != "" && p.Allow != nil && p.Allow.Contains(a) {
		return ""
	}
	return reason
}

// class returns the class for which a is denied wherever the gateway stands.
func class(a netip.Addr) string {
	switch {
	case a.IsUnspecified(), a.Is4() && thisNetwork.Contains(a):
		return "unspecified"
	case a.IsLoopback():
		return "loopback"
	case a.IsMulticast():
		return "multicast"
	case a == broadcast:
		return "broadcast"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case compatible.Contains(a):
		return "IPv4-compatible"
	}
	return ""
}

// scoped reports whether the IPv6 address a means nothing without an interface.
func scoped(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast()
}

// taken returns whose address a is, if it is the backend's or the gateway's.
func (p *Policy) taken(a, backend netip.Addr) string {
	switch {
	case a == backend:
		return "the backend's own address"
	case p.Own != nil && p.Own.Contains(a):
		return "the gateway's own address"
	}
	return ""
}

// StandIn returns the address of the other family that stands for client where
// the backend does not speak the client's. The result is the same in every
// process and at every time.
//
// An IPv4 client becomes 64:ff9b::/96 with its address at the end (RFC 6052),
// from which anybody can read it back.
//
// An IPv6 client becomes an address of 240.0.0.0/4, RFC 1112's reserved class
// E, which no real client has: the 64-bit FNV-1a hash of the address's 16
// bytes, folded to 28 bits by XOR of the bits above them, with 255.255.255.254
// instead of the broadcast address. It tells clients apart in a log but is no
// proof of identity: clients may share one, and an IPv6 client with a prefix of
// its own can choose its stand-in. Grant no rights by it.
func StandIn(client netip.Addr) netip.Addr {
	client = client.Unmap()
	if client.Is4() {
		a := [16]byte{0x00, 0x64, 0xff, 0x9b}
		v4 := client.As4()
		copy(a[12:], v4[:])
		return netip.AddrFrom16(a)
	}
	h := uint64(14695981039346656037)
	for _, b := range client.As16() {
		h = (h ^ uint64(b)) * 1099511628211
	}
	h = (h ^ h>>28 ^ h>>56) & 0x0fffffff
	if h == 0x0fffffff {
		h--
	}
	return netip.AddrFrom4([4]byte{0xf0 | byte(h>>24), byte(h >> 16), byte(h >> 8), byte(h)})
}
