package returnpath

import (
	"net/netip"
	"slices"
)

// Empty reports whether the plan has no routes, rules and filter.
func (p Plan) Empty() bool { return len(p.Routes)+len(p.Rules) == 0 && p.Filter == nil }

// Replies returns the part of the plan without which no reply arrives: p without
// the rules for ICMP and without an optional table.
func (p Plan) Replies() Plan {
	part := p
	part.Rules = slices.DeleteFunc(slices.Clone(p.Rules), Rule.IsICMP)
	if p.Filter != nil && p.Filter.IsOptional() {
		part.Filter = nil
	}
	return part
}

// For returns the part of the plan that returns the replies of the backends at a.
func (p Plan) For(a netip.Addr) Plan {
	var part Plan
	devices, routers := map[string]bool{}, map[netip.Addr]bool{}
	for _, b := range p.Backends {
		if b.Addr.Contains(a) {
			part.Backends = append(part.Backends, b)
			devices[b.Reach.Device], routers[b.Reach.Router] = true, true
		}
	}
	marked := p.Filter != nil && p.Filter.covers(a)
	for _, r := range p.Rules {
		own := r.From.IsValid() && (r.From.Contains(a) || r.IsICMP() && routers[r.From.Addr()])
		byMark := marked && r.Mark != 0 && r.Mark != p.Filter.redirectMark() && r.IPv6 == a.Is6() && devices[r.In]
		if own || byMark {
			part.Rules = append(part.Rules, r)
		}
	}
	for _, r := range p.Routes {
		if r.IPv6 == a.Is6() && len(part.Rules) > 0 {
			part.Routes = append(part.Routes, r)
		}
	}
	if marked {
		part.Filter = p.Filter
	}
	return part
}

// ForRedirects returns the part of the plan that hands connections to the
// gateway's listeners.
func (p Plan) ForRedirects() Plan {
	var part Plan
	if p.Filter == nil || len(p.Filter.Redirects) == 0 {
		return part
	}
	part.Filter = p.Filter
	used := map[bool]bool{} // families
	for _, r := range p.Rules {
		if r.Mark == p.Filter.redirectMark() {
			part.Rules = append(part.Rules, r)
			used[r.IPv6] = true
		}
	}
	for _, r := range p.Routes {
		if used[r.IPv6] {
			part.Routes = append(part.Routes, r)
		}
	}
	return part
}
