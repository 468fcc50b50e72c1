package returnpath

import (
	"fmt"
	"net/netip"
)

// Ports is a range of ports, both ends included. {0, 65535} is every port.
type Ports struct{ Low, High uint16 }

// AllPorts is every port.
var AllPorts = Ports{0, 65535}

// String returns the range as ip-rule(8) and nft(8) write it.
func (p Ports) String() string {
	if p.Low == p.High {
		return fmt.Sprint(p.Low)
	}
	return fmt.Sprintf("%d-%d", p.Low, p.High)
}

// Place is where a backend is, as seen from the gateway's host.
type Place uint8

// The places.
const (
	// Unknown: the host has no route to it.
	Unknown Place = iota
	// Loopback: an address of lo or of a dummy interface. Nobody outside the
	// host talks to it, so that all its packets to foreign addresses are for
	// the gateway.
	Loopback
	// Local: another address of the host, to which others may talk as well.
	Local
	// Link: a container, a namespace or a host on the link behind Device.
	Link
	// Routed: behind the router that Reach names.
	Routed
)

var places = [...]string{Unknown: "unknown", Loopback: "loopback", Local: "local", Link: "link", Routed: "routed"}

// String returns the place in a word.
func (p Place) String() string { return places[p] }

// Reach is how the gateway's host reaches a backend.
type Reach struct {
	Place Place
	// Device is the interface that its packets come in by; "lo" for those
	// that this host sends itself, "" for an unknown place.
	Device string
	// Router is the next hop towards a routed backend.
	Router netip.Addr
	// Forwards says that the host forwards what comes in by Device: others
	// may talk to the backend through this host, without the gateway.
	Forwards bool
}

// Backend is a server as the gateway dials it, or a prefix of servers.
type Backend struct {
	// Addr is unmapped; a single server is a /32 or /128.
	Addr  netip.Prefix
	Ports Ports
	UDP   bool
	Reach Reach
}

// Server returns the backend at one address, which is unmapped, without its place.
func Server(a netip.AddrPort, udp bool) Backend {
	addr := a.Addr().Unmap()
	return Backend{Addr: netip.PrefixFrom(addr, addr.BitLen()), Ports: Ports{a.Port(), a.Port()}, UDP: udp}
}

// String returns the backend as an operator would write it.
func (b Backend) String() string {
	host := b.Addr.String()
	if b.Addr.IsSingleIP() {
		host = b.Addr.Addr().String()
	}
	if b.Addr.Addr().Is6() {
		host = "[" + host + "]"
	}
	if b.Ports == AllPorts {
		return host
	}
	return host + ":" + b.Ports.String()
}

func (b Backend) protocol() string { return protocol(b.UDP) }

func protocol(udp bool) string {
	if udp {
		return "udp"
	}
	return "tcp"
}

// Redirect is what the packet filter hands to a listener that has IP_TRANSPARENT:
// connections to any address of Prefix, at Ports.
type Redirect struct {
	// Prefix is masked. The zero Prefix stands for the host's own addresses, of
	// both families.
	Prefix netip.Prefix
	Ports  Ports
	UDP    bool
	// To is the listener: its port, and its address unless that is a wildcard.
	To netip.AddrPort
}

// of reports whether the redirect is of a family.
func (r Redirect) of(v6 bool) bool { return !r.Prefix.IsValid() || r.Prefix.Addr().Is6() == v6 }
