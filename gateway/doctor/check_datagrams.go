package doctor

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"unproxy/gateway/forward"
	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// checkDatagrams checks what a UDP target needs besides the delivery of its usual
// replies. A failure of that delivery explains the rest.
func (r *run) checkDatagrams(ctx context.Context, t *target, replies []Finding) []Finding {
	part := r.plan.For(t.at.Addr())
	if part.Empty() || slices.ContainsFunc(replies, func(f Finding) bool { return f.Status == Fail }) {
		return replies
	}
	missing, err := r.host.Missing(ctx, part)
	return append(replies, slices.Concat(r.fragments(ctx, t, missing, err), r.failover(t, part, missing, err))...)
}

// fragments checks whether this host reassembles large replies before its rules
// and its packet filter compare their ports. No server can be made to send one, so
// it checks what reassembles them. Replies over lo keep their route (loopback_xmit).
func (r *run) fragments(ctx context.Context, t *target, missing returnpath.Plan, err error) []Finding {
	where := reach(r.plan, t.at.Addr())
	if where.Device == "lo" {
		return nil
	}
	const symptom = "replies that arrive on %s in fragments, because they exceed the MTU, match no rule and are lost"
	switch {
	case errors.Is(err, fs.ErrPermission):
		return []Finding{finding(Fragments, t.name, Skip,
			"not tested whether large replies arrive: %s, which has to reassemble their fragments", onlyRootReadsFilter)}
	case errors.Is(err, routing.ErrNoNFT):
		return []Finding{finding(Fragments, t.name, Warn, symptom+
			", unless another program has loaded connection tracking: nft is not installed", where.Device).
			with("apt install nftables", "# and then unproxy routes apply, with the same flags")}
	case err != nil:
		return []Finding{finding(Fragments, t.name, Skip, "not tested: cannot read the rules: %v", err)}
	case missing.Filter == nil:
		return []Finding{finding(Fragments, t.name, OK,
			"this host reassembles replies before it compares their ports; no large reply was requested")}
	}
	if text, err := r.host.Firewall(ctx); err == nil && reassembles(text) {
		return []Finding{finding(Fragments, t.name, OK,
			"this host reassembles replies because its packet filter tracks connections; no large reply was requested")}
	}
	return []Finding{finding(Fragments, t.name, Warn, symptom, where.Device).with(missing.Filter.Command())}
}

// reassembles reports whether a ruleset has an expression that makes the kernel
// reassemble fragments: those that need nf_defrag_ipv4, in the spelling of nft.
func reassembles(ruleset string) bool {
	for line := range strings.Lines(ruleset) {
		rule := " " + strings.TrimSpace(line) + " "
		for _, expression := range []string{
			" ct ", " tproxy ", " masquerade ", " snat ", " dnat ", " redirect ", " synproxy ",
			`xt match "conntrack"`, `xt match "state"`, `xt match "socket"`, `xt target "TPROXY"`,
		} {
			if strings.Contains(rule, expression) {
				return true
			}
		}
	}
	return false
}

// failover checks whether the gateway can learn that a UDP target is down, and use
// another one. Only an ICMP error tells.
func (r *run) failover(t *target, part, missing returnpath.Plan, err error) []Finding {
	if !r.hasOther(t) || err != nil && !errors.Is(err, routing.ErrNoNFT) {
		return nil
	}
	reply := routing.Reply{
		From: t.at, To: transparent.TestClient(t.at.Addr().Is6()), UDP: true, ICMP: true,
		Device: reach(part, t.at.Addr()).Device,
	}
	for _, rule := range part.Rules {
		if rule.Mark != 0 && missing.Filter == nil && err == nil {
			reply.Mark = rule.Mark
		}
	}
	if decision, err := r.host.LookupRoute(reply); err == nil && decision.Local {
		return []Finding{finding(Failover, t.name, OK,
			"ICMP errors about it reach the gateway, which then uses another backend; no datagram was sent")}
	}
	status := Warn
	if t.plain.answer == refused {
		status = Fail
	}
	return []Finding{finding(Failover, t.name, status,
		"ICMP errors about it do not reach the gateway: while it is down its datagrams are lost, "+
			"and no other backend is used").with(missing.Commands()...)}
}

// hasOther reports whether a listener leads to a target and to another one that
// the gateway can use instead.
func (r *run) hasOther(t *target) bool {
	return slices.ContainsFunc(r.targets, func(other *target) bool {
		usable := !t.familyOnly || t.at.Addr().Is4() == other.at.Addr().Is4()
		leadsToOther := func(l *forward.Listener) bool { return slices.Contains(other.listeners, l) }
		return other != t && usable && slices.ContainsFunc(t.listeners, leadsToOther)
	})
}
