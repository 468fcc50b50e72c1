package routing

import (
	"context"
	"errors"
	"os/exec"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
)

// Missing returns the part of p that is not in force on this host. Of the packet
// filter an ordinary user is told nothing: the error is then an [*Error] that
// says so, and the rest of the result is right.
func Missing(ctx context.Context, p returnpath.Plan) (returnpath.Plan, error) {
	part := returnpath.Plan{Backends: p.Backends, Notes: p.Notes}
	for _, r := range p.Routes {
		there, err := hasRoute(r)
		if err != nil {
			return part, err
		}
		if !there {
			part.Routes = append(part.Routes, r)
		}
	}
	for _, v6 := range []bool{false, true} {
		present, err := rulesOf(v6)
		if err != nil {
			return part, err
		}
		for _, r := range p.Rules {
			if r.IPv6 == v6 && !slices.Contains(present, normal(r)) {
				part.Rules = append(part.Rules, r)
			}
		}
	}
	if p.Filter == nil {
		return part, nil
	}
	there, err := hasTable(ctx, p.Filter.Name())
	if err == nil && !there {
		part.Filter = p.Filter
	}
	return part, err
}

// Apply puts into force what is missing of p, and has trace told each command
// that this stands for, before it is carried out. It needs CAP_NET_ADMIN. The
// order is such that a plan of which a part is in force does no harm.
func Apply(ctx context.Context, p returnpath.Plan, trace func(command string)) error {
	missing, err := Missing(ctx, p)
	if err != nil {
		return err
	}
	for _, r := range missing.Routes {
		trace(r.String())
		if err := addRoute(r); err != nil {
			return err
		}
	}
	for _, r := range missing.Rules {
		trace(r.String())
		// Another process may have added it meanwhile (rule_exists in fib_rules.c).
		if err := netlink.RuleAdd(writeRule(r)); err != nil && !errors.Is(err, unix.EEXIST) {
			return failed(r.String(), err)
		}
	}
	if missing.Filter == nil {
		return nil
	}
	trace("nft -f - <<'EOF'\n" + missing.Filter.String() + "EOF")
	return addTable(ctx, missing.Filter)
}

// Remove takes p away, and has trace told each command. What is not there is no
// error. What others live by stays: routes as long as a rule looks them up, and
// rules for marked packets as long as another table of the packet filter marks
// any; the last one takes them all along. All is tried; the errors are joined.
func Remove(ctx context.Context, p returnpath.Plan, trace func(command string)) error {
	var all []error
	rules := slices.DeleteFunc(slices.Clone(p.Rules), func(r returnpath.Rule) bool { return r.Mark != 0 })
	if p.Filter != nil {
		all = append(all, removeTable(ctx, p.Filter, trace))
		unused, err := unusedRules(ctx, p)
		all = append(all, err)
		rules = append(rules, unused...)
	}
	present, err := hostRules()
	all = append(all, err)
	for _, r := range rules {
		if slices.Contains(present, normal(r)) {
			all = append(all, removeRule(r, trace))
		}
	}
	for _, r := range p.Routes {
		// That of the other family may be left of a plan which could not take it.
		for _, v6 := range []bool{false, true} {
			all = append(all, removeRoute(returnpath.Route{IPv6: v6, Table: r.Table}, trace))
		}
	}
	return errors.Join(all...)
}

// unusedRules returns the rules for marked packets with p's numbers, whoever
// added them, if no table marks packets any more.
func unusedRules(ctx context.Context, p returnpath.Plan) ([]returnpath.Rule, error) {
	others, err := tables(ctx, returnpath.FilterPrefix(p.Filter.Mark))
	if err != nil || len(others) > 0 {
		return nil, err
	}
	present, err := hostRules()
	if err != nil {
		return nil, err
	}
	var all []returnpath.Rule
	for _, r := range present {
		like := func(own returnpath.Rule) bool {
			return own.Mark != 0 && own.Mark == r.Mark && own.Table == r.Table && own.Preference == r.Preference
		}
		if slices.ContainsFunc(p.Rules, like) {
			all = append(all, r)
		}
	}
	return all, nil
}

// RemoveAll takes away whatever a plan with these options can have made: all
// rules that look up its table, all tables of the packet filter for its mark, and
// the routes. It is for what an earlier configuration left behind; other
// gateways with the same numbers lose theirs, too.
func RemoveAll(ctx context.Context, o returnpath.Options, trace func(command string)) error {
	var all []error
	o = o.WithDefaults()
	names, err := tables(ctx, returnpath.FilterPrefix(o.Mark))
	if !errors.Is(err, exec.ErrNotFound) { // without nft nobody made a table
		all = append(all, err)
	}
	for _, name := range names {
		all = append(all, deleteTable(ctx, name, trace))
	}
	for _, v6 := range []bool{false, true} {
		rules, err := rulesOf(v6)
		all = append(all, err)
		for _, r := range rules {
			forRedirects := r.Mark == o.Mark+1 && r.Preference == o.Preference
			if r.Table == o.Table || forRedirects {
				all = append(all, removeRule(r, trace))
			}
		}
		all = append(all, removeRoute(returnpath.Route{IPv6: v6, Table: o.Table}, trace))
	}
	return errors.Join(all...)
}

// removeRule removes a rule that was there when the rules were listed.
func removeRule(r returnpath.Rule, trace func(string)) error {
	trace(r.Removal())
	err := netlink.RuleDel(writeRule(r))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return failed(r.Removal(), err)
}

// removeRoute removes a route whose table no rule looks up.
func removeRoute(r returnpath.Route, trace func(string)) error {
	present, err := rulesOf(r.IPv6)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(present, func(rule returnpath.Rule) bool { return rule.Table == r.Table }) {
		return nil
	}
	there, err := hasRoute(r)
	if err != nil || !there {
		return err
	}
	trace(r.Removal())
	route, err := writeRoute(r)
	if err == nil {
		err = netlink.RouteDel(route)
	}
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return nil // no such route, or no such table
	}
	return failed(r.Removal(), err)
}
