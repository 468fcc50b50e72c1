package returnpath

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Filter is the nftables table of a plan. nft(8) applies it as a whole or not at
// all.
type Filter struct {
	// Mark is the first of the three packet marks that the table uses.
	Mark uint32
	// Owner is the plan's; see [Options.Owner].
	Owner uint8
	// Links are the backends whose packets arrive on a device. The table marks
	// packets that belong to a transparent socket of this host, except a listener
	// on all addresses (nft_socket.c).
	Links []Backend
	// Locals are the backends on this host's own addresses. Only a transparent
	// socket sends from a foreign address on lo. The table marks these connections
	// in conntrack, and their replies.
	Locals []Backend
	// Ruled are backends whose packets arrive on a device and match routing rules
	// of their own, but not without the table: it reassembles fragments, whose
	// ports no rule can match, and on a device from which this host forwards it
	// marks the ICMP errors for transparent sockets.
	Ruled []Backend
	// Redirects are the packets that the table hands to listeners (nft_tproxy.c).
	Redirects []Redirect
}

// The marks of replies that arrive on a device, of redirected packets, and of
// replies that this host sends. The local mark must differ from the link mark:
// with src_valid_mark the reverse-path lookup of a packet that arrives on a device
// uses the packet's mark and lo as the input interface. With equal marks it would
// match the rule for local replies.
func (f *Filter) linkMark() uint32     { return f.Mark }
func (f *Filter) redirectMark() uint32 { return RedirectMark(f.Mark) }
func (f *Filter) localMark() uint32    { return f.Mark + 2 }

// RedirectMark returns the mark of redirected packets in a plan whose
// [Options.Mark] is mark.
func RedirectMark(mark uint32) uint32 { return mark + 1 }

// FilterPrefix returns the common prefix of the names of all tables that use
// mark.
func FilterPrefix(mark uint32) string { return fmt.Sprintf("unproxy_%d_", mark) }

// Name returns the name of the table. It contains a hash of the content: a table
// with this name is up to date, and gateways with different tables do not
// conflict. It ends with [FilterSuffix].
func (f *Filter) Name() string {
	sum := sha256.Sum256([]byte(f.body()))
	return FilterPrefix(f.Mark) + hex.EncodeToString(sum[:4]) + FilterSuffix(f.Owner)
}

// FilterSuffix returns the end of the names of all tables of an owner, "" for
// [DefaultOwner].
func FilterSuffix(owner uint8) string {
	if owner == DefaultOwner || owner == 0 {
		return ""
	}
	return fmt.Sprintf("_%d", owner)
}

// IsOptional reports whether the backends' usual replies arrive without the table:
// those of one packet that are no errors.
func (f *Filter) IsOptional() bool { return len(f.Links)+len(f.Locals)+len(f.Redirects) == 0 }

// Reassembles reports whether the table reassembles the fragments of replies that
// arrive on a device.
func (f *Filter) Reassembles() bool { return len(f.Links)+len(f.Ruled) > 0 }

// String returns the table as an nft(8) file.
func (f *Filter) String() string { return "table inet " + f.Name() + " {\n" + f.body() + "}\n" }

// Command returns the shell command that creates the table. It spans several
// lines.
func (f *Filter) Command() string { return "nft -f - <<'EOF'\n" + f.String() + "EOF" }

func (f *Filter) covers(a netip.Addr) bool {
	all := slices.Concat(f.Links, f.Locals, f.Ruled)
	return slices.ContainsFunc(all, func(b Backend) bool { return b.Addr.Contains(a) })
}

func (f *Filter) body() string {
	var w writer
	for _, v6 := range families {
		w.set(setName("links", v6), v6, f.Links)
		w.set(setName("locals", v6), v6, f.Locals)
	}
	if f.Reassembles() {
		// The hook of nf_defrag runs before all chains (NF_IP_PRI_CONNTRACK_DEFRAG).
		w.line(1, "# Nothing jumps here. A rule with tproxy has the kernel reassemble fragments")
		w.line(1, "# (nft_tproxy_init), as conntrack does, but no connection is tracked.")
		w.line(1, "chain reassemble {")
		for _, b := range f.Ruled {
			w.line(2, "# %s", b.element()) // tables for different backends have different names
		}
		w.line(2, "meta l4proto udp tproxy to :1")
		w.line(1, "}")
	}
	if marks := f.marks(); marks != "" {
		w.line(1, "chain prerouting {")
		w.line(2, "type filter hook prerouting priority mangle; policy accept;")
		w.WriteString(marks)
		w.line(1, "}")
	}
	if len(f.Locals) > 0 {
		f.output(&w)
	}
	return w.String()
}

// marks returns the rules that mark packets.
func (f *Filter) marks() string {
	var w writer
	for _, v6 := range families {
		f.links(&w, v6)
		f.errors(&w, v6)
		f.locals(&w, v6)
	}
	for _, r := range f.Redirects {
		w.line(2, "%s", r.statement(f.redirectMark()))
	}
	return w.String()
}

// links marks, for each device, the replies to the gateway.
func (f *Filter) links(w *writer, v6 bool) {
	var devices []string
	for _, b := range f.Links {
		if b.isIPv6() == v6 {
			devices = appendNew(devices, b.Reach.Device)
		}
	}
	for _, d := range devices {
		w.line(2, "iifname %q %s saddr . meta l4proto . th sport @%s socket transparent 1 socket wildcard 0 meta mark set %d",
			d, inet(v6), setName("links", v6), f.linkMark())
	}
}

// errors marks, for each device, the ICMP errors about packets of a transparent
// socket. They come from the backend, or from a router on the way to it. For such
// an error "socket" finds the socket by the packet that it quotes
// (extract_icmp4_fields in nf_socket_ipv4.c).
func (f *Filter) errors(w *writer, v6 bool) {
	types := "icmp type { destination-unreachable, time-exceeded, parameter-problem }"
	if v6 {
		types = "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"
	}
	var devices []string
	for _, b := range slices.Concat(f.Links, f.Ruled) {
		if b.isIPv6() == v6 && (b.Reach.Forwards || slices.Contains(f.Links, b)) {
			devices = appendNew(devices, b.Reach.Device)
		}
	}
	for _, d := range devices {
		w.line(2, "iifname %q %s socket transparent 1 socket wildcard 0 meta mark set %d", d, types, f.linkMark())
	}
}

// locals marks, in conntrack, the gateway's connections to this host's own
// addresses.
func (f *Filter) locals(w *writer, v6 bool) {
	if !hasFamily(f.Locals, v6) {
		return
	}
	w.line(2, "iif lo %s daddr . meta l4proto . th dport @%s fib saddr type != local ct mark set %d",
		inet(v6), setName("locals", v6), f.localMark())
}

// output marks the replies of these connections. A route hook repeats the route
// lookup with the new mark.
func (f *Filter) output(w *writer) {
	w.line(1, "chain output {")
	w.line(2, "type route hook output priority mangle; policy accept;")
	w.line(2, "ct direction reply ct mark %[1]d meta mark set %[1]d", f.localMark())
	w.line(1, "}")
}

// statement returns the rule that hands connections from other hosts to a
// listener. It excludes those of this host, because their replies would match as
// well.
func (r Redirect) statement(mark uint32) string {
	match, family := "fib daddr type local", ""
	if r.Prefix.IsValid() {
		family = inet(r.Prefix.Addr().Is6()) + " "
		match = family + "daddr " + r.Prefix.String()
	}
	match += " meta l4proto " + protocol(r.UDP)
	if r.Ports.Low > 1 || r.Ports.High < AllPorts.High { // port 0 is never used
		match += " th dport " + r.Ports.String()
	}
	to := fmt.Sprintf(":%d", r.To.Port())
	if a := r.To.Addr(); a.IsValid() && !a.IsUnspecified() {
		to, family = r.To.String(), inet(a.Is6())+" "
	}
	return fmt.Sprintf("iifname != \"lo\" %s tproxy %sto %s meta mark set %d accept", match, family, to, mark)
}

// setName returns the name of a family's set.
func setName(base string, v6 bool) string {
	if v6 {
		return base + "6"
	}
	return base + "4"
}

// inet returns the family's name in nft matches.
func inet(v6 bool) string {
	if v6 {
		return "ip6"
	}
	return "ip"
}

// writer writes indented text.
type writer struct{ strings.Builder }

// line writes one line, indented by depth tabs.
func (w *writer) line(depth int, format string, args ...any) {
	w.WriteString(strings.Repeat("\t", depth))
	fmt.Fprintf(w, format+"\n", args...)
}

// element returns the backend as an element of a set.
func (b Backend) element() string {
	return fmt.Sprintf("%s . %s . %s", b.host(), b.protocol(), b.Ports)
}

// set writes the set of the backends of a family, unless there are none.
func (w *writer) set(name string, v6 bool, backends []Backend) {
	kind := "ipv4_addr"
	if v6 {
		kind = "ipv6_addr"
	}
	var elements []string
	for _, b := range backends {
		if b.isIPv6() == v6 {
			elements = appendNew(elements, b.element())
		}
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
