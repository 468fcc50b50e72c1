package returnpath

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Filter is the packet filter's part of a plan: a table of nftables, which takes
// effect as a whole or not at all.
type Filter struct {
	// Mark is the first of three marks that the table uses.
	Mark uint32
	// Links are the backends whose packets come in by a device. Those that
	// belong to a transparent socket of this host are marked, unless that is a
	// listener on all addresses (nft_socket.c).
	Links []Backend
	// Locals are the backends on this host's own addresses. Only a transparent
	// socket sends from a foreign address by lo: conntrack remembers those
	// connections, and their replies are marked.
	Locals []Backend
	// Redirects are handed to listeners (nft_tproxy.c).
	Redirects []Redirect
}

// The marks of replies that come in by a device, of what is redirected, and of
// replies that this host itself sends. A reverse-path look-up with src_valid_mark
// has the mark of the packet and comes in by lo: were the last mark the first,
// it would meet the rule for that one.
func (f *Filter) linkMark() uint32     { return f.Mark }
func (f *Filter) redirectMark() uint32 { return f.Mark + 1 }
func (f *Filter) localMark() uint32    { return f.Mark + 2 }

// FilterPrefix begins the name of every table that uses mark.
func FilterPrefix(mark uint32) string { return fmt.Sprintf("unproxy_%d_", mark) }

// Name returns the name of the table. It follows from what the table holds: one
// that is there already is the right one, and gateways whose tables differ do
// not meet.
func (f *Filter) Name() string {
	sum := sha256.Sum256([]byte(f.body()))
	return FilterPrefix(f.Mark) + hex.EncodeToString(sum[:4])
}

// String returns the table as nft(8) reads it from a file.
func (f *Filter) String() string { return "table inet " + f.Name() + " {\n" + f.body() + "}\n" }

func (f *Filter) covers(a netip.Addr) bool {
	return slices.ContainsFunc(slices.Concat(f.Links, f.Locals), func(b Backend) bool { return b.Addr.Contains(a) })
}

func (f *Filter) body() string {
	var w writer
	for _, v6 := range []bool{false, true} {
		w.set(setName("links", v6), v6, f.Links)
		w.set(setName("locals", v6), v6, f.Locals)
	}
	w.line(1, "chain prerouting {")
	w.line(2, "type filter hook prerouting priority mangle; policy accept;")
	for _, v6 := range []bool{false, true} {
		f.links(&w, v6)
		f.locals(&w, v6)
	}
	for _, r := range f.Redirects {
		w.line(2, "%s", r.statement(f.redirectMark()))
	}
	w.line(1, "}")
	if len(f.Locals) > 0 {
		f.output(&w)
	}
	return w.String()
}

// links marks the packets of each device that are replies to the gateway.
func (f *Filter) links(w *writer, v6 bool) {
	var devices []string
	for _, b := range f.Links {
		if b.Addr.Addr().Is6() == v6 {
			devices = appendNew(devices, b.Reach.Device)
		}
	}
	for _, d := range devices {
		w.line(2, "iifname %q %s saddr . meta l4proto . th sport @%s socket transparent 1 socket wildcard 0 meta mark set %d",
			d, inet(v6), setName("links", v6), f.linkMark())
	}
}

// locals has conntrack remember the gateway's connections to this host's own
// addresses.
func (f *Filter) locals(w *writer, v6 bool) {
	if !slices.ContainsFunc(f.Locals, func(b Backend) bool { return b.Addr.Addr().Is6() == v6 }) {
		return
	}
	w.line(2, "iif lo %s daddr . meta l4proto . th dport @%s fib saddr type != local ct mark set %d",
		inet(v6), setName("locals", v6), f.localMark())
}

// output marks the replies of those, so that they are routed anew.
func (f *Filter) output(w *writer) {
	w.line(1, "chain output {")
	w.line(2, "type route hook output priority mangle; policy accept;")
	w.line(2, "ct direction reply ct mark %d meta mark set %d", f.localMark(), f.localMark())
	w.line(1, "}")
}

// statement is the rule that hands connections to a listener, those that come
// from other hosts: what this host sends itself would meet its own replies.
func (r Redirect) statement(mark uint32) string {
	match, family := "fib daddr type local", ""
	if r.Prefix.IsValid() {
		family = inet(r.Prefix.Addr().Is6()) + " "
		match = family + "daddr " + r.Prefix.String()
	}
	match += " meta l4proto " + protocol(r.UDP)
	if r.Ports.Low > 1 || r.Ports.High < AllPorts.High {
		match += " th dport " + r.Ports.String()
	}
	to := fmt.Sprintf(":%d", r.To.Port())
	if a := r.To.Addr(); a.IsValid() && !a.IsUnspecified() {
		to, family = r.To.String(), inet(a.Is6())+" "
	}
	return fmt.Sprintf("iifname != \"lo\" %s tproxy %sto %s meta mark set %d accept", match, family, to, mark)
}

func setName(of string, v6 bool) string {
	if v6 {
		return of + "6"
	}
	return of + "4"
}

// inet is the family's name in matches of nft.
func inet(v6 bool) string {
	if v6 {
		return "ip6"
	}
	return "ip"
}

// writer puts a table together.
type writer struct{ strings.Builder }

func (w *writer) line(depth int, format string, args ...any) {
	w.WriteString(strings.Repeat("\t", depth))
	fmt.Fprintf(w, format+"\n", args...)
}

// set writes the set of a family's backends, unless there are none.
func (w *writer) set(name string, v6 bool, backends []Backend) {
	kind := "ipv4_addr"
	if v6 {
		kind = "ipv6_addr"
	}
	var elements []string
	for _, b := range backends {
		if b.Addr.Addr().Is6() != v6 {
			continue
		}
		address := b.Addr.String()
		if b.Addr.IsSingleIP() {
			address = b.Addr.Addr().String()
		}
		elements = appendNew(elements, fmt.Sprintf("%s . %s . %s", address, b.protocol(), b.Ports))
	}
	if len(elements) == 0 {
		return
	}
	w.line(1, "set %s {", name)
	w.line(2, "type %s . inet_proto . inet_service", kind)
	w.line(2, "flags interval")
	w.line(2, "elements = {")
	for _, e := range elements {
		w.line(3, "%s,", e)
	}
	w.line(2, "}")
	w.line(1, "}")
}
