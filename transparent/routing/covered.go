package routing

import (
	"net/netip"
	"slices"

	"unproxy/transparent"
	"unproxy/transparent/returnpath"
)

// WithoutCovered returns missing, the part of a plan that is not in force, without the rules
// in whose place others do: a rule that was made for a range of ports covers one for a single
// port. While a route is missing, too, none does. lookup is [Lookup].
func WithoutCovered(missing returnpath.Plan, lookup func(Reply) (Decision, error)) returnpath.Plan {
	if len(missing.Routes) > 0 {
		return missing
	}
	missing.Rules = slices.DeleteFunc(missing.Rules, func(r returnpath.Rule) bool {
		return covered(r, transparent.TestClient(r.IPv6), lookup)
	})
	return missing
}

// covered reports whether other rules deliver what a plan's rule is for: for replies from
// its first and from its last port, the kernel looks up the rule's table, in which they
// are local. to is a client of the rule's family.
//
// Rules for marked packets have no packets of their own and are never covered.
func covered(r returnpath.Rule, to netip.AddrPort, lookup func(Reply) (Decision, error)) bool {
	if r.Mark != 0 || !r.From.IsSingleIP() || r.Ports == returnpath.AllPorts || r.Ports == (returnpath.Ports{}) && !r.IsICMP() {
		return false
	}
	for _, port := range [...]uint16{r.Ports.Low, r.Ports.High} {
		decision, err := lookup(Reply{
			From: netip.AddrPortFrom(r.From.Addr(), port), To: to,
			UDP: r.Protocol == "udp", ICMP: r.IsICMP(), Device: r.In,
		})
		if err != nil || !decision.Local || decision.Table != r.Table {
			return false
		}
	}
	return true
}
