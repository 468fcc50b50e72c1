package returnpath

import (
	"fmt"
	"net/netip"
	"slices"
)

// Ports is a range of ports, both ends included.
type Ports struct{ Low, High uint16 }

// AllPorts contains every port.
var AllPorts = Ports{0, 65535}

// String returns the range in the syntax of ip-rule(8) and nft(8).
func (p Ports) String() string {
	if p.Low == p.High {
		return fmt.Sprint(p.Low)
	}
	return fmt.Sprintf("%d-%d", p.Low, p.High)
}

// Place is the location of a backend relative to the gateway's host.
type Place uint8

// The values of [Place].
const (
	// Unknown: the host has no route to the backend.
	Unknown Place = iota
	// Loopback: an address of lo or of a dummy interface. No other host talks to
	// it, so all its packets to foreign addresses belong to the gateway.
	Loopback
	// Local: another address of the host, to which other hosts may talk as well.
	Local
	// Link: a container, a namespace or a host on the link of [Reach.Device].
	Link
	// Routed: behind the router [Reach.Router].
	Routed
)

var places = [...]string{Unknown: "unknown", Loopback: "loopback", Local: "local", Link: "link", Routed: "routed"}

// String returns the place as one word.
func (p Place) String() string { return places[p] }

// Reach is how the gateway's host reaches a backend. The zero value is an unknown
// place.
type Reach struct {
	Place Place
	// Device is the interface that receives the backend's packets: "lo" for
	// packets of this host, "" for an unknown place.
	Device string
	// Router is the next hop to a routed backend.
	Router netip.Addr
	// Forwards reports whether the host forwards packets received on Device, so
	// that others may talk to the backend through this host but not through the
	// gateway.
	Forwards bool
}

// Backend is a server, or a prefix of servers, as the gateway connects to it.
type Backend struct {
	// Addr is unmapped. For a single server it is a /32 or /128.
	Addr  netip.Prefix
	Ports Ports
	UDP   bool
	Reach Reach
}

// Server returns the backend at a, unmapped, with an unknown place.
func Server(a netip.AddrPort, udp bool) Backend {
	addr := a.Addr().Unmap()
	return Backend{Addr: netip.PrefixFrom(addr, addr.BitLen()), Ports: Ports{a.Port(), a.Port()}, UDP: udp}
}

// String returns the address or prefix and, unless it is [AllPorts], the range of
// ports: "127.0.0.1:22", "[2001:db8::/64]:25-30".
func (b Backend) String() string {
	host := b.host()
	if b.isIPv6() {
		host = "[" + host + "]"
	}
	if b.Ports == AllPorts {
		return host
	}
	return host + ":" + b.Ports.String()
}

// host returns the prefix, or the address if it is a single one.
func (b Backend) host() string {
	if b.Addr.IsSingleIP() {
		return b.Addr.Addr().String()
	}
	return b.Addr.String()
}

func (b Backend) isIPv6() bool { return b.Addr.Addr().Is6() }

func (b Backend) protocol() string { return protocol(b.UDP) }

func protocol(udp bool) string {
	if udp {
		return "udp"
	}
	return "tcp"
}

// hasFamily reports whether any of the backends is of a family.
func hasFamily(all []Backend, v6 bool) bool {
	return slices.ContainsFunc(all, func(b Backend) bool { return b.isIPv6() == v6 })
}

// Redirect selects packets that the packet filter hands to a listener with
// IP_TRANSPARENT: those to any address of Prefix and port of Ports.
type Redirect struct {
	// Prefix is masked. The zero Prefix stands for the host's own addresses of
	// both families.
	Prefix netip.Prefix
	Ports  Ports
	UDP    bool
	// To is the listener. An invalid or unspecified address stands for any.
	To netip.AddrPort
}

// hasFamily reports whether the redirect applies to a family.
func (r Redirect) hasFamily(v6 bool) bool { return !r.Prefix.IsValid() || r.Prefix.Addr().Is6() == v6 }
