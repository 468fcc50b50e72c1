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

// Missing returns the part of p that is not in force on this host. Unprivileged
// users cannot read the packet filter: the error is then an [*Error] that matches
// [io/fs.ErrPermission], and the result is complete except for the filter.
func Missing(ctx context.Context, p returnpath.Plan) (returnpath.Plan, error) {
	part := returnpath.Plan{Backends: p.Backends, Notes: p.Notes}
	for _, r := range p.Routes {
		exists, err := hasRoute(r)
		if err != nil {
			return part, err
		}
		if !exists {
			part.Routes = append(part.Routes, r)
		}
	}
	for _, v6 := range families {
		present, err := rulesOf(v6)
		if err != nil {
			return part, err
		}
		for _, r := range p.Rules {
			if r.IPv6 == v6 && !slices.Contains(present, normalize(r)) {
				part.Rules = append(part.Rules, r)
			}
		}
	}
	if p.Filter == nil {
		return part, nil
	}
	exists, err := hasTable(ctx, p.Filter.Name())
	if err == nil && !exists {
		part.Filter = p.Filter
	}
	return part, err
}

// Apply applies the missing parts of p. It calls trace with the equivalent command
// before each step. It needs CAP_NET_ADMIN. The order of steps (routes, rules,
// filter) makes a partially applied plan harmless.
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
		// EEXIST: another process has added it meanwhile (rule_exists in fib_rules.c).
		if err := netlink.RuleAdd(writeRule(r)); err != nil && !errors.Is(err, unix.EEXIST) {
			return failed(r.String(), err)
		}
	}
	if missing.Filter == nil {
		return nil
	}
	trace(missing.Filter.Command())
	return addTable(ctx, missing.Filter)
}

// Remove removes p and calls trace with the equivalent command before each step.
// Missing parts are not an error. Remove keeps what other gateways use: routes
// while a rule looks up their table, and rules for marked packets while another
// nftables table marks packets. It continues after an error and joins all errors.
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
		if slices.Contains(present, normalize(r)) {
			all = append(all, removeRule(r, trace))
		}
	}
	for _, r := range p.Routes {
		// An earlier plan may have left a route of the other family in this table.
		for _, v6 := range families {
			all = append(all, removeRoute(returnpath.Route{IPv6: v6, Table: r.Table}, trace))
		}
	}
	return errors.Join(all...)
}

// unusedRules returns the host's rules for marked packets with p's numbers,
// including those of other gateways, if no nftables table marks packets any more.
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
		sameNumbers := func(own returnpath.Rule) bool {
			return own.Mark != 0 && own.Mark == r.Mark && own.Table == r.Table && own.Preference == r.Preference
		}
		if slices.ContainsFunc(p.Rules, sameNumbers) {
			all = append(all, r)
		}
	}
	return all, nil
}

// RemoveAll removes everything that a plan with these options can have created: all
// rules that look up its table, all nftables tables for its mark, and the routes.
// It cleans up after an earlier configuration, and also removes the rules of other
// gateways with the same numbers. It continues after an error and joins all
// errors.
func RemoveAll(ctx context.Context, o returnpath.Options, trace func(command string)) error {
	var all []error
	o = o.WithDefaults()
	names, err := tables(ctx, returnpath.FilterPrefix(o.Mark))
	if !errors.Is(err, exec.ErrNotFound) { // without nft there are no tables
		all = append(all, err)
	}
	for _, name := range names {
		all = append(all, deleteTable(ctx, name, trace))
	}
	for _, v6 := range families {
		rules, err := rulesOf(v6)
		all = append(all, err)
		for _, r := range rules {
			forRedirects := r.Mark == returnpath.RedirectMark(o.Mark) && r.Preference == o.Preference
			if r.Table == o.Table || forRedirects {
				all = append(all, removeRule(r, trace))
			}
		}
		all = append(all, removeRoute(returnpath.Route{IPv6: v6, Table: o.Table}, trace))
	}
	return errors.Join(all...)
}

// removeRule removes a rule. It ignores that another process has removed it
// meanwhile.
func removeRule(r returnpath.Rule, trace func(string)) error {
	trace(r.Removal())
	err := netlink.RuleDel(writeRule(r))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return failed(r.Removal(), err)
}

// removeRoute removes a route unless a rule looks up its table.
func removeRoute(r returnpath.Route, trace func(string)) error {
	present, err := rulesOf(r.IPv6)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(present, func(rule returnpath.Rule) bool { return rule.Table == r.Table }) {
		return nil
	}
	exists, err := hasRoute(r)
	if err != nil || !exists {
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
