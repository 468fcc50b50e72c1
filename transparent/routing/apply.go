package routing

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
)

// Missing returns the part of p that is not in force on this host. Unprivileged
// users cannot read the packet filter: the error is then an [*Error] that matches
// [io/fs.ErrPermission], and the result is complete except for the filter. It
// matches [ErrNoNFT] if the program nft is not installed.
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
		present, err := hostRulesOf(v6)
		if err != nil {
			return part, err
		}
		for _, r := range p.Rules {
			if r.IPv6 == v6 && !contains(present, r) {
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

// ErrReassembly is the error of [Apply] if everything is in force except for a
// table that is optional.
var ErrReassembly = errors.New("UDP replies that arrive in fragments are lost")

// Apply applies the missing parts of p. It calls trace with the equivalent command
// before each step. It needs CAP_NET_ADMIN. The order of steps (routes, rules,
// filter) makes a partially applied plan harmless.
//
// Without the program nft it changes nothing, unless p's table is optional: then it
// applies the rest, and the error matches [ErrReassembly].
func Apply(ctx context.Context, p returnpath.Plan, trace func(command string)) error {
	missing, err := Missing(ctx, p)
	var partial error
	if errors.Is(err, exec.ErrNotFound) && p.Filter.IsOptional() {
		err, partial = nil, fmt.Errorf("%w: %w", ErrReassembly, err)
	}
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
		if err := addRule(r); err != nil {
			return err
		}
	}
	if missing.Filter == nil {
		return partial
	}
	trace(missing.Filter.Command())
	return addTable(ctx, missing.Filter)
}

// Remove removes p, and what [Stale] returns, and calls trace with the equivalent
// command before each step. Missing parts are not an error. Remove keeps what other
// gateways use: routes while a rule looks up their table, and rules for marked
// packets while another nftables table marks packets. It keeps rules that another program
// has labelled. It continues after an error
// and joins all errors.
func Remove(ctx context.Context, p returnpath.Plan, trace func(command string)) error {
	var all []error
	stale, err := findStale(ctx, p)
	all = append(all, err)
	for _, name := range stale.tables {
		all = append(all, deleteTable(ctx, name, trace))
	}
	rules := slices.DeleteFunc(slices.Clone(p.Rules), func(r returnpath.Rule) bool { return r.Mark != 0 })
	if p.Filter != nil {
		err := removeTable(ctx, p.Filter, trace)
		if p.Filter.IsOptional() && errors.Is(err, exec.ErrNotFound) {
			err = nil // without nft the table was not applied
		}
		all = append(all, err)
	}
	present, err := hostRules()
	all = append(all, err)
	if p.Filter != nil || len(stale.tables) > 0 {
		unused, err := unusedRules(ctx, p, present)
		all = append(all, err)
		stale.rules = append(stale.rules, unused...)
	}
	unwanted := func(r hostRule) bool {
		return r.isRemovable() && slices.ContainsFunc(rules, r.is) || slices.ContainsFunc(stale.rules, r.same)
	}
	kept := slices.DeleteFunc(slices.Clone(present), unwanted)
	for _, r := range present {
		if unwanted(r) && !(r.IsICMP() && neededBy(r, kept, p)) {
			all = append(all, removeRule(r, trace))
		}
	}
	for _, table := range tablesOf(p) {
		// An earlier plan may have left a route of the other family in this table.
		for _, v6 := range families {
			all = append(all, removeRoute(returnpath.Route{IPv6: v6, Table: table}, trace))
		}
	}
	return errors.Join(all...)
}

// neededBy reports whether an ICMP rule serves rules of other gateways: those for
// the same backend, or behind the same router, which is no backend of p.
func neededBy(icmp hostRule, others []hostRule, p returnpath.Plan) bool {
	isBackend := slices.ContainsFunc(p.Backends, func(b returnpath.Backend) bool { return b.Addr == icmp.From })
	return slices.ContainsFunc(others, func(r hostRule) bool {
		return !r.other && !r.IsICMP() && r.Table == icmp.Table && r.In == icmp.In && r.Mark == 0 &&
			(r.From == icmp.From || !isBackend && r.owner == icmp.owner && r.From.IsValid())
	})
}

// tablesOf returns the routing tables that p, or an earlier plan with its options,
// has a route in.
func tablesOf(p returnpath.Plan) []uint32 {
	var all []uint32
	for _, r := range p.Routes {
		all = append(all, r.Table)
	}
	if p.Options.Table != 0 {
		all = append(all, p.Options.Table)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// unusedRules returns the host's rules for marked packets with p's numbers,
// including those of other gateways, if no nftables table marks packets any more.
func unusedRules(ctx context.Context, p returnpath.Plan, present []hostRule) ([]hostRule, error) {
	o := p.Options
	others, err := tables(ctx, returnpath.FilterPrefix(o.Mark))
	if errors.Is(err, exec.ErrNotFound) && (p.Filter == nil || p.Filter.IsOptional()) {
		err = nil // without nft there are no tables
	}
	if err != nil || len(others) > 0 {
		return nil, err
	}
	var all []hostRule
	for _, r := range present {
		sameNumbers := func(own returnpath.Rule) bool {
			return own.Mark != 0 && own.Mark == r.Mark && own.Table == r.Table && own.Preference == r.Preference
		}
		// A stale table can have used a rule that p does not need.
		byOptions := !r.other && r.Table == o.Table && r.Preference == o.Preference && r.Mark == o.Mark
		if r.isRemovable() && (!r.other && slices.ContainsFunc(p.Rules, sameNumbers) || byOptions) {
			all = append(all, r)
		}
	}
	return all, nil
}

// RemoveAll removes everything that a plan with these options can have created: all
// rules that look up its table, all nftables tables for its mark, and the routes. It
// cleans up after an earlier configuration. That includes the rules of other gateways
// with the same numbers, but no rule that a plan cannot contain or that another program
// has labelled. It continues after an
// error and joins all errors.
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
		rules, err := hostRulesOf(v6)
		all = append(all, err)
		for _, r := range rules {
			forRedirects := r.Mark == returnpath.RedirectMark(o.Mark) && r.Preference == o.Preference
			if !r.other && r.isRemovable() && (r.Table == o.Table || forRedirects) {
				all = append(all, removeRule(r, trace))
			}
		}
		all = append(all, removeRoute(returnpath.Route{IPv6: v6, Table: o.Table}, trace))
	}
	return errors.Join(all...)
}

// removeRoute removes a route unless a rule looks up its table.
func removeRoute(r returnpath.Route, trace func(string)) error {
	present, err := hostRulesOf(r.IPv6)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(present, func(rule hostRule) bool { return rule.Table == r.Table }) {
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
