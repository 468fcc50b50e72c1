package doctor

import (
	"context"
	"net/netip"
	"slices"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
)

// checkSourceAddresses checks that this host has the forwards' source addresses, of which
// each backend must have one of its family.
func (r *run) checkSourceAddresses(context.Context) []Finding {
	if !r.anyForward(func(f *forward.Forward) bool { return len(f.SourceAddresses) > 0 }) {
		return nil
	}
	own, err := r.host.Addresses()
	if err != nil {
		return []Finding{finding(SourceAddress, "source addresses", Skip, "cannot list the host's addresses: %v", err)}
	}
	var all []Finding
	for _, f := range r.Config.Forwards {
		for _, p := range f.SourceAddresses {
			one := sourceAddress(p, own)
			if !slices.ContainsFunc(all, func(f Finding) bool { return f.Target == one.Target }) {
				all = append(all, one)
			}
		}
	}
	return all
}

// sourceAddress returns the finding about a prefix of source addresses. own are the host's.
func sourceAddress(p netip.Prefix, own []netip.Prefix) Finding {
	name := value.Prefix(p)
	for a := p.Addr(); p.Contains(a); a = a.Next() {
		if slices.ContainsFunc(own, func(o netip.Prefix) bool { return o.Contains(a) }) {
			continue
		}
		if p.IsSingleIP() {
			return finding(SourceAddress, name, Fail, "it is not an address of this host").
				with("# on lo, or on the interface towards the backend:", "ip address add "+p.String()+" dev lo")
		}
		return finding(SourceAddress, name, Fail, "%s is not an address of this host", a).
			with("# let this host take the whole prefix:", "ip route add local "+p.String()+" dev lo")
	}
	return finding(SourceAddress, name, OK, "this host has it")
}

// sourcesFor returns the source addresses of a forward that have the family of a backend's
// address.
func sourcesFor(f *forward.Forward, backend netip.Addr) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(f.SourceAddresses), func(p netip.Prefix) bool {
		return p.Addr().Is4() != backend.Is4()
	})
}
