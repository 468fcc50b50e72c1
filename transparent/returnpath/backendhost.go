package returnpath

import (
	"fmt"
	"net/netip"
	"slices"
)

// backendTable is the name of the nftables table on a backend's host.
const backendTable = "unproxy_backend"

// backendBase keeps the default numbers on a backend's host apart from those of a
// gateway on the same host, which uses Default and the next few.
const backendBase = Default + 10

// Gateway is a gateway as seen from the backend's host. It is identified by MAC,
// or by Device if that is not empty.
type Gateway struct {
	// MAC is the source address of its frames. Addrs are the next hops towards
	// it, at most one of each family, on a link of the backend's host.
	MAC   string
	Addrs []netip.Addr
	// Device is the interface of a tunnel to the gateway. MAC and Addrs are then
	// ignored.
	Device string
}

// BackendHost is a host whose backends are behind gateways on other hosts. It
// sends the replies of each connection back through the gateway that the
// connection came from.
type BackendHost struct {
	Backends []Backend
	Gateways []Gateway
	// Base is the table, mark and preference of the first gateway; each further
	// gateway uses the next number. 0 stands for [Default] + 10.
	Base uint32
}

// String returns a script for sh(1) that root runs on the backend's host.
//
// The packet filter marks a connection by the origin of its first packet,
// conntrack keeps the mark, and the mark routes the replies. Connections from
// elsewhere have no mark and are unaffected.
func (h BackendHost) String() string {
	if h.Base == 0 {
		h.Base = backendBase
	}
	var w writer
	w.line(0, "#!/bin/sh")
	w.line(0, `# Run as root on the host of the backends. "File exists" means that a rule is already there.`)
	for i, g := range h.Gateways {
		h.route(&w, g, h.number(i))
	}
	h.filter(&w)
	return w.String()
}

// number returns the table, mark and preference of a gateway.
func (h BackendHost) number(gateway int) uint32 { return h.Base + uint32(gateway) }

// route writes the routes to one gateway.
func (h BackendHost) route(w *writer, g Gateway, number uint32) {
	for _, v6 := range families {
		hop, ok := g.hop(v6)
		if !ok || !hasFamily(h.Backends, v6) {
			continue
		}
		w.line(0, "%s route replace default %s table %d", ip(v6), hop, number)
		w.line(0, "%s rule add fwmark %d lookup %d pref %d", ip(v6), number, number, number)
	}
	if g.Device != "" {
		// If the interface has no address, even the loose filter drops packets
		// whose reverse route is another one (no_addr in __fib_validate_source).
		w.line(0, "# The loose reverse-path filter. The tunnel must have an IPv4 address on this host.")
		w.line(0, "sysctl -w %s=2", Sysctl(g.Device, "rp_filter"))
	}
}

// hop returns the next hop of a route to the gateway.
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

// filter writes the table that marks connections and their replies.
func (h BackendHost) filter(w *writer) {
	w.line(0, "nft -f - <<'EOF'")
	w.line(0, "table inet %[1]s\ndelete table inet %[1]s\ntable inet %[1]s {", backendTable)
	for _, v6 := range families {
		w.set(setName("backends", v6), v6, h.Backends)
	}
	w.line(1, "chain prerouting {")
	w.line(2, "type filter hook prerouting priority mangle; policy accept;")
	for i, g := range h.Gateways {
		from := "ether saddr " + g.MAC
		if g.Device != "" {
			from = fmt.Sprintf("iifname %q", g.Device)
		}
		for _, v6 := range families {
			if hasFamily(h.Backends, v6) {
				w.line(2, "%s %s daddr . meta l4proto . th dport @%s ct mark set %d",
					from, inet(v6), setName("backends", v6), h.number(i))
			}
		}
	}
	w.line(1, "}")
	w.line(1, "chain output {")
	w.line(2, "type route hook output priority mangle; policy accept;")
	for i := range h.Gateways {
		w.line(2, "ct direction reply ct mark %[1]d meta mark set %[1]d", h.number(i))
	}
	w.line(1, "}")
	w.line(0, "}\nEOF")
}
