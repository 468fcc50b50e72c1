package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// Parts of details that several findings share.
const (
	onlyRootReadsFilter = "only root can read the packet filter"
	headersDecide       = "headers name the destination"
)

// checkReturnPath checks whether a target's replies to clients reach the gateway.
// If possible it connects as a client.
func (r *run) checkReturnPath(ctx context.Context, t *target) []Finding {
	switch {
	case t.udp && r.host.deliversReplies(r.plan.For(t.at.Addr()), t):
		return r.checkDatagrams(ctx, t, []Finding{finding(ReturnPath, t.name, OK,
			"this host's rules deliver replies to the gateway; no datagram was sent")})
	case t.udp:
		return r.checkDatagrams(ctx, t, r.checkRules(ctx, t, "a UDP server need not answer"))
	case r.optionErr != nil:
		return r.checkRules(ctx, t, "the socket options for the test cannot be set")
	case t.plain.answer == answered:
		return r.testReturnPath(ctx, t, "")
	case t.plain.answer != refused || !r.isLocal(t):
		return r.checkRules(ctx, t, "the backend does not answer")
	}
	listener, err := r.host.Listen(t.at)
	if err != nil {
		why := fmt.Sprintf("the backend does not answer, and the doctor cannot listen in its place: %v", err)
		return r.checkRules(ctx, t, why)
	}
	defer listener.Close()
	return r.testReturnPath(ctx, t, " (tested with a listener in the backend's place)")
}

// testReturnPath connects from a client's address to a target that answers the
// gateway. how is appended to the detail.
func (r *run) testReturnPath(ctx context.Context, t *target, how string) []Finding {
	client, sent, err := r.host.tryClient(ctx, t)
	switch answerOf(err) {
	case answered:
		if f, found := r.host.rewritten(ctx, t, client, sent); found {
			return []Finding{f}
		}
		if !sent.IsValid() {
			how += r.host.unseen()
		}
		part := r.plan.For(t.at.Addr())
		missing, err := r.host.Missing(ctx, part)
		if err == nil && !missing.Empty() && !r.host.deliversByTable(part, t) {
			how += "; the rules are not those of unproxy routes"
		}
		return []Finding{finding(ReturnPath, t.name, OK, "a client is answered%s", how)}
	case refused:
		return []Finding{finding(ReturnPath, t.name, Warn,
			"the backend answers the gateway but refuses a client in %s", transparent.TestNetwork(client.Addr().Is6())).
			with("# the return path works; does a firewall or an access list of the server reject these addresses?")}
	case silent, unreachable:
		return r.host.diagnose(ctx, r.plan, unanswered{t, client, how, r.PrintCommand})
	}
	return []Finding{finding(ReturnPath, t.name, Skip, "not tested: %v", err)}
}

// checkRules checks the rules for a target that cannot be tested, and says why.
func (r *run) checkRules(ctx context.Context, t *target, why string) []Finding {
	part := r.plan.For(t.at.Addr())
	if part.Empty() {
		return []Finding{finding(ReturnPath, t.name, Skip, "not tested: %s; unproxy routes has no rules for it", why)}
	}
	missing, err := r.host.missing(ctx, part)
	switch {
	case err != nil && !errors.Is(err, fs.ErrPermission):
		return []Finding{finding(ReturnPath, t.name, Skip, "not tested: %s; cannot read its rules: %v", why, err)}
	case !missing.Replies().Empty() && r.host.deliversReplies(part, t):
		return []Finding{finding(ReturnPath, t.name, Skip,
			"not tested: %s; rules other than those of unproxy routes deliver its replies", why)}
	case !missing.Replies().Empty():
		return []Finding{missingRules(t.name, part, missing, "not tested ("+why+")")}
	case err != nil:
		why += "; " + onlyRootReadsFilter
	}
	return []Finding{finding(ReturnPath, t.name, Skip, "not tested: %s; the rules for it are in force", why)}
}

// missing returns the part of a target's plan that is not in force. Rules that were
// made for more forwards than those at hand, such as one for a range of ports,
// count as those of the plan.
func (h Host) missing(ctx context.Context, part returnpath.Plan) (returnpath.Plan, error) {
	missing, err := h.Missing(ctx, part)
	return routing.WithoutCovered(missing, h.LookupRoute), err
}

// deliversByTable reports whether the kernel's rules deliver a target's replies to
// this host by the plan's own table.
func (h Host) deliversByTable(part returnpath.Plan, t *target) bool {
	if len(part.Rules) == 0 || len(part.Routes) == 0 {
		return false
	}
	decision, err := h.LookupRoute(routing.Reply{
		From: t.at, To: transparent.TestClient(t.at.Addr().Is6()), UDP: t.udp,
		Device: reach(part, t.at.Addr()).Device, Mark: part.Rules[0].Mark,
	})
	return err == nil && decision.Local && decision.Table == part.Routes[0].Table
}

// deliversReplies reports whether the kernel's rules deliver a target's replies to
// this host. It does not take the packet filter into account.
func (h Host) deliversReplies(part returnpath.Plan, t *target) bool {
	decision, err := h.LookupRoute(routing.Reply{
		From: t.at, To: transparent.TestClient(t.at.Addr().Is6()), UDP: t.udp, Device: reach(part, t.at.Addr()).Device,
	})
	return err == nil && decision.Local
}

// missingRules returns the finding that a part of the plan is not in force. symptom
// is the start of the detail.
func missingRules(name string, part, missing returnpath.Plan, symptom string) Finding {
	needed, all := len(missing.Replies().Rules), len(part.Replies().Rules)
	code, what := RulesMissing, fmt.Sprintf("%d of %d rules are missing", needed, all)
	switch {
	case needed == 0 && missing.Filter != nil:
		code, what = FilterMissing, "the packet filter has no table for it"
	case needed == 0:
		code, what = TableEmpty, fmt.Sprintf("its rules are in force, but table %d, which they look up, lacks their route",
			part.Routes[0].Table)
	case all == 1:
		what = "the rule that delivers its replies to the gateway is missing"
	}
	return finding(code, name, Fail, "%s: %s", symptom, what).with(missing.Commands()...)
}

// reach returns how this host reaches an address that a plan covers, or the zero
// value.
func reach(p returnpath.Plan, a netip.Addr) returnpath.Reach {
	for _, b := range p.Backends {
		if b.Addr.Contains(a) {
			return b.Reach
		}
	}
	return returnpath.Reach{}
}

// checkPlan reports the notes of the plan, and checks the rules for destinations
// that headers name.
func (r *run) checkPlan(ctx context.Context) []Finding {
	if !r.spoofs {
		return nil
	}
	var all []Finding
	// Names that do not resolve have findings of their own.
	if r.planErr != nil && len(r.plan.Backends) == 0 && len(r.names) == 0 {
		all = append(all, finding(RoutePlan, "plan", Skip, "cannot plan the return path: %v", r.planErr))
	}
	for _, n := range r.plan.Notes {
		all = append(all, finding(RoutePlan, n.About, Warn, "%s", n.Message).with("# "+n.Hint))
	}
	return append(all, r.destinations(ctx)...)
}

// destinations checks the rules for destinations that headers name, which cannot
// be tested.
func (r *run) destinations(ctx context.Context) []Finding {
	var all []Finding
	for _, b := range r.plan.Backends {
		// A prefix that spans interfaces is several backends.
		reported := slices.ContainsFunc(all, func(f Finding) bool { return f.Target == b.String() })
		if reported || b.Addr.IsSingleIP() && b.Ports != returnpath.AllPorts {
			continue
		}
		part := r.plan.For(b.Addr.Addr())
		if part.Empty() {
			continue // no route: the plan has a note about it
		}
		missing, err := r.host.Missing(ctx, part)
		switch {
		case err != nil && missing.Replies().Empty():
			all = append(all, finding(ReturnPath, b.String(), Skip,
				"not tested: %s; cannot read its rules: %v", headersDecide, err))
		case !missing.Replies().Empty():
			f := missingRules(b.String(), part, missing, "not tested ("+headersDecide+")")
			f.Status = Warn // other rules may deliver the replies
			all = append(all, f)
		default:
			all = append(all, finding(ReturnPath, b.String(), OK,
				"the rules for it are in force; not tested: %s", headersDecide))
		}
	}
	return all
}
