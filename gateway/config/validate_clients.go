package config

import (
	"fmt"

	"unproxy/gateway/forward"
	"unproxy/trust"
)

// mostUseless is the number of rules without effect that are named.
const mostUseless = 10

// clients checks which clients are served, and which peers are clients themselves.
func (v *validator) clients(f *forward.Forward) {
	v.useless(f.AllowClient, f.DenyClient)
	v.direct(f)
}

// useless warns of rules that allow only what other rules deny.
func (v *validator) useless(allow, deny forward.Addresses) {
	denied := setOf(deny)
	n := 0
	for _, r := range Rules(allow) {
		by, covered := denied.Covering(r.Prefix)
		if !covered {
			continue
		}
		if n++; n <= mostUseless {
			v.warn(fmt.Sprintf("allow-client rule %q (%s) has no effect: deny-client rule %q (%s) covers it",
				r.Text, r.Origin, by.Text, by.Origin), "")
		}
	}
	if n > mostUseless {
		v.warn(fmt.Sprintf("%d more allow-client rules have no effect", n-mostUseless), "")
	}
}

// direct checks the peers that connect without a header.
func (v *validator) direct(f *forward.Forward) {
	if f.Direct == nil || !f.HasInternetListener() {
		return
	}
	if h, d, found := Overlap(f.Health, f.Direct); found {
		v.warn(fmt.Sprintf("health source %q overlaps direct rule %q: connections from there are closed, not forwarded",
			h.Text, d.Text), "")
	}
	if f.PassUntrusted {
		v.warn("with --untrusted pass, every peer that is not trusted is a client itself: --direct matters only within"+
			" trust rules", "")
	}
	trusted := setOf(f.Trust)
	for _, d := range Rules(f.Direct) {
		if t, found := trusted.Covering(d.Prefix); found && t.Prefix == d.Prefix {
			v.problem(fmt.Sprintf("%q is both a direct rule and a trust rule: does it send a header?", d.Text),
				"leave one of them out")
		}
	}
}

// setOf returns the current set of a list, nil if it has none.
func setOf(a forward.Addresses) *trust.Set {
	switch set := a.(type) {
	case *trust.Set:
		return set
	case *trust.Live:
		return set.Set()
	}
	return nil
}
