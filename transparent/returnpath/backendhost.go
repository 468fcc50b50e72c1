package returnpath

import (
	"fmt"
	"net/netip"
	"slices"
)

// Gateway is one gateway in front of a backend, as the backend's host sees it.
type Gateway struct {
	// MAC is the address that its frames come from, and Addrs are the next hops
	// back to it, at most one of each family. All are on the host's own link.
	MAC   string
	Addrs []netip.Addr
	// Device is the interface of a tunnel to it, in place of the former.
	Device string
}

// BackendHost is a host whose backends are behind gateways on other hosts. The
// replies of each connection must go back through the gateway that it came from.
type BackendHost struct {
	Backends []Backend
	Gateways []Gateway
	// Base is the first number for tables, marks and preferences, one for each
	// gateway; 0 is [Default] + 10.
	Base uint32
}

// String returns a script for sh, to be run as root on the backend's host.
//
// A connection is marked by where its first packet came from, conntrack keeps
// the mark, and the replies are routed by it. Connections that came another way
// have no mark and go on as before.
func (h BackendHost) String() string {
	if h.Base == 0 {
		h.Base = Default + 10
	}
	var w writer
	w.line(0, "#!/bin/sh")
	w.line(0, "# On the host of the backends, as root. What is there already is refused, which is well.")
	for i, g := range h.Gateways {
		h.route(&w, g, h.Base+uint32(i))
	}
	h.filter(&w)
	return w.String()
}

// route writes the way back to one gateway.
func (h BackendHost) route(w *writer, g Gateway, number uint32) {
	for _, v6 := range []bool{false, true} {
		if !slices.ContainsFunc(h.Backends, func(b Backend) bool { return b.Addr.Addr().Is6() == v6 }) {
			continue
		}
		hop, ok := g.hop(v6)
		if !ok {
			continue
		}
		w.line(0, "%s route replace default %s table %d", ip(v6), hop, number)
		w.line(0, "%s rule add fwmark %d lookup %d pref %d", ip(v6), number, number, number)
	}
	if g.Device != "" {
		// Without an address of the interface even the loose filter drops what has
		// its way back elsewhere (no_addr in __fib_validate_source).
		w.line(0, "# The loose reverse-path filter, for which the tunnel must have an IPv4 address on this host.")
		w.line(0, "sysctl -w net.ipv4.conf.%s.rp_filter=2", g.Device)
	}
}

// hop returns the next hop of a route back to the gateway.
func (g Gateway) hop(v6 bool) (string, bool) {
	if g.Device != "" {
		return "dev " + g.Device, true
	}
	i := slices.IndexFunc(g.Addrs, func(a netip.Addr) bool { return a.Is6() == v6 })
	if i < 0 {
		return "", false
	}
	return "via " + g.Addrs[i].String(), true
}

// filter writes what marks connections and their replies.
func (h BackendHost) filter(w *writer) {
	const table = "unproxy_backend"
	w.line(0, "nft -f - <<'EOF'")
	w.line(0, "table inet %s\ndelete table inet %s\ntable inet %s {", table, table, table)
	for _, v6 := range []bool{false, true} {
		w.set(setName("backends", v6), v6, h.Backends)
	}
	w.line(1, "chain prerouting {")
	w.line(2, "type filter hook prerouting priority mangle; policy accept;")
	for i, g := range h.Gateways {
		from := "ether saddr " + g.MAC
		if g.Device != "" {
			from = fmt.Sprintf("iifname %q", g.Device)
		}
		for _, v6 := range []bool{false, true} {
			if slices.ContainsFunc(h.Backends, func(b Backend) bool { return b.Addr.Addr().Is6() == v6 }) {
				w.line(2, "%s %s daddr . meta l4proto . th dport @%s ct mark set %d", from, inet(v6), setName("backends", v6), h.Base+uint32(i))
			}
		}
	}
	w.line(1, "}")
	w.line(1, "chain output {")
	w.line(2, "type route hook output priority mangle; policy accept;")
	for i := range h.Gateways {
		w.line(2, "ct direction reply ct mark %d meta mark set %d", h.Base+uint32(i), h.Base+uint32(i))
	}
	w.line(1, "}")
	w.line(0, "}\nEOF")
}
