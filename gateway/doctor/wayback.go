package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// wayBack looks at whether a target's replies to clients come back, by being a
// client.
func (e *examination) wayBack(ctx context.Context, t *target) []Finding {
	switch {
	case t.udp && e.host.returns(e.plan.For(t.at.Addr()), t):
		return []Finding{finding(ReturnPath, t.name, OK, "replies to clients lead to the gateway, by this host's rules; no datagram was sent")}
	case t.udp:
		return e.untested(ctx, t, "a server of UDP need not answer")
	case e.optionErr != nil:
		return e.untested(ctx, t, "the socket options that the test takes cannot be set")
	case t.plain.answer == answered:
		return e.tested(ctx, t, "")
	case t.plain.answer != refused || !e.isHere(t):
		return e.untested(ctx, t, "the backend does not answer")
	}
	place, err := e.host.Stand(t.at)
	if err != nil {
		return e.untested(ctx, t, fmt.Sprintf("the backend does not answer, and a listener cannot stand in for it: %v", err))
	}
	defer place.Close()
	return e.tested(ctx, t, ", tried with a listener in the backend's place")
}

// tested is the decisive test: a connection from a client's address, of which
// there is no doubt that somebody listens for it.
func (e *examination) tested(ctx context.Context, t *target, how string) []Finding {
	client := stranger(t.at.Addr().Is6())
	_, err := e.host.try(ctx, Attempt{To: t.at, From: client, Mark: t.mark})
	switch answerOf(err) {
	case answered:
		missing, err := e.host.Missing(ctx, e.plan.For(t.at.Addr()))
		if err == nil && !missing.Empty() {
			how += ", by other rules than those of unproxy routes"
		}
		return []Finding{finding(ReturnPath, t.name, OK, "a client is answered%s", how)}
	case refused:
		return []Finding{finding(ReturnPath, t.name, Warn, "the gateway is answered and a client of %s is refused", network(client)).
			with("# the way back is there; does a firewall or the server's own list keep these addresses out?")}
	case silent, unreachable:
		return e.host.diagnose(ctx, e.plan, lost{t, client, how, e.Printing})
	}
	return []Finding{finding(ReturnPath, t.name, Skip, "not tested: %v", err)}
}

// untested says what can be told without a test.
func (e *examination) untested(ctx context.Context, t *target, why string) []Finding {
	part := e.plan.For(t.at.Addr())
	missing, err := e.host.Missing(ctx, part)
	switch {
	case err != nil && !errors.Is(err, fs.ErrPermission):
		return []Finding{finding(ReturnPath, t.name, Skip, "not tested: %s; and its rules cannot be looked at: %v", why, err)}
	case !missing.Empty() && e.host.returns(part, t):
		return []Finding{finding(ReturnPath, t.name, Skip, "not tested, for %s; other rules than those of unproxy routes bring its replies back", why)}
	case !missing.Empty():
		return []Finding{lacking(t.name, part, missing, "not tested, for "+why)}
	case err != nil:
		why += "; the packet filter shows itself to root alone"
	}
	return []Finding{finding(ReturnPath, t.name, Skip, "not tested, for %s; the rules for it are in force", why)}
}

// returns reports whether a target's replies come back by whatever rules, as far
// as the kernel can tell: what the packet filter would do it cannot.
func (h Host) returns(part returnpath.Plan, t *target) bool {
	way, err := h.Way(routing.Reply{From: t.at, To: stranger(t.at.Addr().Is6()), UDP: t.udp, Device: reach(part, t.at.Addr()).Device})
	return err == nil && way.Local
}

// lacking is the finding that part of the plan is not in force.
func lacking(name string, part, missing returnpath.Plan, seen string) Finding {
	code, what := RulesMissing, fmt.Sprintf("%d of %d rules are missing", len(missing.Rules), len(part.Rules))
	switch {
	case len(missing.Rules) == 0 && missing.Filter != nil:
		code, what = FilterMissing, "the packet filter has no table for it"
	case len(missing.Rules) == 0:
		code, what = TableEmpty, fmt.Sprintf("its rules are there, but table %d, which they look up, does not have their route", missing.Routes[0].Table)
	case len(part.Rules) == 1:
		what = "the rule that hands its replies to the gateway is missing"
	}
	return finding(code, name, Fail, "%s: %s", seen, what).with(missing.Commands()...)
}

// reach returns how this host reaches an address that a plan was made for.
func reach(p returnpath.Plan, a netip.Addr) returnpath.Reach {
	for _, b := range p.Backends {
		if b.Addr.Contains(a) {
			return b.Reach
		}
	}
	return returnpath.Reach{}
}

// planned tells what the plan itself has to say, and of the ways that cannot be
// tested because they are known only when a header comes.
func (e *examination) planned(ctx context.Context) []Finding {
	if !e.spoofs {
		return nil
	}
	var all []Finding
	if e.planErr != nil && len(e.plan.Backends) == 0 && len(e.names) == 0 { // names tell of themselves
		all = append(all, finding(RoutePlan, "plan", Skip, "the way back cannot be planned: %v", e.planErr))
	}
	for _, n := range e.plan.Notes {
		f := finding(RoutePlan, n.About, Warn, "%s", n.Message)
		if n.Hint != "" {
			f = f.with("# " + n.Hint)
		}
		all = append(all, f)
	}
	return append(all, e.destinations(ctx)...)
}

// diverted looks at what hands connections to the gateway's listeners.
func (e *examination) diverted(ctx context.Context) []Finding {
	part := e.plan.ForRedirects()
	if part.Empty() {
		return nil
	}
	var names []string
	for _, f := range e.Config.Forwards {
		if len(f.Redirect) > 0 {
			names = append(names, f.Listeners[0].Name)
		}
	}
	target := strings.Join(names, ", ")
	missing, err := e.host.Missing(ctx, part)
	switch {
	case !missing.Empty():
		return []Finding{finding(Redirect, target, Warn, "not all that unproxy routes has for it is in force; others may hand connections to it").
			with(missing.Commands()...)}
	case errors.Is(err, fs.ErrPermission):
		return []Finding{finding(Redirect, target, Skip, "the rules for it are in force; the packet filter shows itself to root alone")}
	case err != nil:
		return []Finding{finding(Redirect, target, Skip, "what hands connections to it cannot be looked at: %v", err)}
	}
	return []Finding{finding(Redirect, target, OK, "connections are handed to it")}
}

// destinations looks at the rules for what headers may name.
func (e *examination) destinations(ctx context.Context) []Finding {
	var all []Finding
	for _, b := range e.plan.Backends {
		told := slices.ContainsFunc(all, func(f Finding) bool { return f.Target == b.String() }) // one that is reached in several ways
		if told || b.Addr.IsSingleIP() && b.Ports != returnpath.AllPorts {
			continue
		}
		part := e.plan.For(b.Addr.Addr())
		missing, err := e.host.Missing(ctx, part)
		switch {
		case err != nil && missing.Empty():
			all = append(all, finding(ReturnPath, b.String(), Skip, "not tested, for headers name the destination; its rules cannot be looked at: %v", err))
		case !missing.Empty():
			f := lacking(b.String(), part, missing, "not tested, for headers name the destination")
			f.Status = Warn // other rules may do the same
			all = append(all, f)
		default:
			all = append(all, finding(ReturnPath, b.String(), OK, "the rules for it are in force; not tested, for headers name the destination"))
		}
	}
	return all
}

// oneLine keeps a text on its line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
