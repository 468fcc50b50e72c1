package returnpath

import (
	"fmt"
	"net/netip"
	"strings"
)

// mainTable is the number of the routing table "main" (RT_TABLE_MAIN).
const mainTable = 254

// Route says that every address of its family is local to the host, to whoever
// looks it up in Table.
type Route struct {
	IPv6  bool
	Table uint32
}

// String returns the route as a command of ip-route(8) that may be given twice.
func (r Route) String() string {
	return fmt.Sprintf("%s route replace local default dev lo table %d", ip(r.IPv6), r.Table)
}

// Removal returns the command that takes the route away.
func (r Route) Removal() string {
	return fmt.Sprintf("%s route del local default dev lo table %d", ip(r.IPv6), r.Table)
}

// Rule sends packets to Table. What is zero is not looked at.
type Rule struct {
	IPv6 bool
	// From is the backend's address.
	From netip.Prefix
	// In is the interface that the packets come from; "lo" stands for those
	// that this host sends itself.
	In string
	// Protocol is "tcp" or "udp", and Ports are the backend's.
	Protocol string
	Ports    Ports
	// Mark is the packet's mark.
	Mark  uint32
	Table uint32
	// Preference is the rule's place among all rules, the lowest first.
	Preference uint32
}

// String returns the rule as a command of ip-rule(8). With its preference it is
// refused the second time instead of being there twice.
func (r Rule) String() string { return r.command("add") }

// Removal returns the command that takes the rule away.
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
	if r.Mark != 0 {
		fmt.Fprintf(&b, " fwmark %d", r.Mark)
	}
	fmt.Fprintf(&b, " lookup %s pref %d", r.table(), r.Preference)
	return b.String()
}

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
