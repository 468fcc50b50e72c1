package returnpath

import (
	"fmt"
	"net/netip"
	"strings"
)

// mainTable is the number of the routing table "main" (RT_TABLE_MAIN in
// linux/rtnetlink.h).
const mainTable = 254

// ICMP's messages that a destination is unreachable (icmp(7), RFC 4443), and the
// highest of their codes (NR_ICMP_UNREACH in linux/icmp.h).
const (
	unreachable4 = 3
	unreachable6 = 1
	maxCode      = 15
)

// families are the values of v6 in loops over both address families: IPv4, then
// IPv6.
var families = [...]bool{false, true}

// Route makes all addresses of a family local to the host for lookups in Table.
type Route struct {
	IPv6  bool
	Table uint32
}

// String returns the ip-route(8) command that adds the route. It can be repeated.
func (r Route) String() string {
	return fmt.Sprintf("%s route replace local default dev lo table %d", ip(r.IPv6), r.Table)
}

// Removal returns the command that removes the route.
func (r Route) Removal() string {
	return fmt.Sprintf("%s route del local default dev lo table %d", ip(r.IPv6), r.Table)
}

// Rule looks up matching packets in Table. A zero From, In, Protocol, Ports or
// Mark matches any packet.
type Rule struct {
	IPv6 bool
	// From is the backend's address.
	From netip.Prefix
	// In is the input interface; "lo" matches packets of this host.
	In string
	// Protocol is "tcp", "udp", "icmp" or "ipv6-icmp". Ports are the backend's.
	Protocol string
	Ports    Ports
	// Type is the ICMP message that the rule matches, with every code; see
	// [Rule.types].
	Type uint8
	// Mark is the packet's mark.
	Mark  uint32
	Table uint32
	// Preference is the rule's place among all rules of the host; lower ones come
	// first.
	Preference uint32
	// Owner is the origin that the rule is labelled with (FRA_PROTOCOL in
	// linux/fib_rules.h); see [Plan.Owner]. It has no effect on packets.
	Owner uint8
}

// String returns the ip-rule(8) command that adds the rule. The command fails if
// the rule exists, because it has a preference.
func (r Rule) String() string { return r.command("add") }

// Removal returns the command that removes the rule.
func (r Rule) Removal() string { return r.command("del") }

func (r Rule) command(verb string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s rule %s", ip(r.IPv6), verb)
	if r.From.IsValid() {
		fmt.Fprintf(&b, " from %s", r.From)
	}
	if r.In != "" {
		fmt.Fprintf(&b, " iif %s", r.In)
	}
	if r.Protocol != "" {
		fmt.Fprintf(&b, " ipproto %s", r.Protocol)
	}
	if r.hasPorts() {
		fmt.Fprintf(&b, " sport %s", r.Ports)
	}
	if types, ok := r.types(); ok {
		fmt.Fprintf(&b, " dport %s", types)
	}
	if r.Mark != 0 {
		fmt.Fprintf(&b, " fwmark %d", r.Mark)
	}
	fmt.Fprintf(&b, " lookup %s pref %d", r.table(), r.Preference)
	if r.Owner != 0 {
		fmt.Fprintf(&b, " protocol %d", r.Owner)
	}
	return b.String()
}

// types returns the range of destination ports that stands for the rule's ICMP
// type, if it has one. For ICMP messages that this host sends, the kernel compares
// a rule's destination ports with 256 times the type plus the code (union
// flowi_uli in net/flow.h). For messages that it receives it does not.
func (r Rule) types() (Ports, bool) {
	return types(r.Type), r.Type != 0
}

func types(t uint8) Ports { return Ports{uint16(t) << 8, uint16(t)<<8 + maxCode} }

// Unreachable returns the range of destination ports that stands for ICMP's
// messages that a destination is unreachable; see [Rule.DestinationPorts].
func Unreachable(v6 bool) Ports {
	if v6 {
		return types(unreachable6)
	}
	return types(unreachable4)
}

// DestinationPorts returns the range of destination ports of the kernel's rule, or
// the zero value.
func (r Rule) DestinationPorts() Ports {
	if types, ok := r.types(); ok {
		return types
	}
	return Ports{}
}

// IsICMP reports whether the rule is for ICMP messages, not for replies.
func (r Rule) IsICMP() bool { return r.Protocol == "icmp" || r.Protocol == "ipv6-icmp" }

func (r Rule) hasPorts() bool { return r.Ports != Ports{} && r.Ports != AllPorts }

func (r Rule) table() string {
	if r.Table == mainTable {
		return "main"
	}
	return fmt.Sprint(r.Table)
}

func ip(v6 bool) string {
	if v6 {
		return "ip -6"
	}
	return "ip"
}
