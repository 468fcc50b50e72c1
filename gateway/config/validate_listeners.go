package config

import (
	"fmt"
	"net/netip"
	"strings"

	"unproxy/gateway/engine"
)

// leadsBack reports whether b is what l itself listens on. Of a name only
// localhost is known; of a wildcard only that it covers loopback.
func leadsBack(l engine.Listener, b engine.Backend) bool {
	if l.Endpoint.IsUnix() {
		return l.Endpoint.Path == b.Endpoint.Path
	}
	if at := b.Endpoint.Addr; at.IsValid() {
		return at.Port() != 0 && covers(l, at) && (at == l.Endpoint.Addr || loopback(b))
	}
	if !loopback(b) || b.Port == 0 {
		return false
	}
	for _, host := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if covers(l, netip.AddrPortFrom(host, b.Port)) {
			return true
		}
	}
	return false
}

// listeners looks for two listeners that cannot both be opened.
func (v *validator) listeners(forwards []*engine.Forward) {
	paths := map[string]engine.Listener{}
	type service struct {
		datagrams bool
		port      uint16
	}
	ports := map[service][]engine.Listener{}
	for _, f := range forwards {
		for _, l := range f.Listeners {
			if l.Activation != "" && l.Socket == nil {
				if other, taken := paths[l.Name]; taken {
					v.twice(other, l)
				}
				paths[l.Name] = l
				continue
			}
			if l.Endpoint.IsUnix() { // refused for datagrams
				if other, taken := paths[l.Endpoint.Path]; taken {
					v.twice(other, l)
				}
				paths[l.Endpoint.Path] = l
				continue
			}
			at := service{f.Datagrams, l.Endpoint.Addr.Port()}
			if at.port == 0 {
				continue
			}
			for _, other := range ports[at] {
				v.collision(other, l)
			}
			ports[at] = append(ports[at], l)
		}
	}
}

// collision records a problem if a and b, which are of one port, overlap.
func (v *validator) collision(a, b engine.Listener) {
	if a.Endpoint == b.Endpoint {
		v.twice(a, b)
		return
	}
	if !covers(a, b.Endpoint.Addr) && !covers(b, a.Endpoint.Addr) {
		return
	}
	remedy := "give each an address or port of its own"
	if a.DualStack != b.DualStack && a.Endpoint.Addr.Addr().Is4() != b.Endpoint.Addr.Addr().Is4() {
		remedy = fmt.Sprintf("write [::]:%d for IPv6 alone", a.Endpoint.Addr.Port())
	}
	v.problem(fmt.Sprintf("listeners %s and %s are the same port of the same address", a.Name, b.Name), remedy)
}

// twice records that a and b listen on the same.
func (v *validator) twice(a, b engine.Listener) {
	v.problem(fmt.Sprintf("two forwards listen on the same: %s to %s, and %s to %s", a.Name, Leads(a), b.Name, Leads(b)),
		"let each listen on something of its own")
}

// loopback reports whether a host, an address or a name, is this one for sure.
func loopback(b engine.Backend) bool {
	name := strings.TrimSuffix(strings.ToLower(b.Host), ".")
	return b.Endpoint.Addr.Addr().IsLoopback() || name == "localhost"
}

// covers reports whether a listener takes connections to addr.
func covers(l engine.Listener, addr netip.AddrPort) bool {
	at := l.Endpoint.Addr
	if !at.IsValid() || at.Port() != addr.Port() {
		return false
	}
	if at.Addr() == addr.Addr() {
		return true
	}
	wildcard := at.Addr().IsUnspecified()
	sameFamily := at.Addr().Is4() == addr.Addr().Is4()
	return wildcard && (sameFamily || l.DualStack)
}
