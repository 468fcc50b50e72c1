package routing

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"slices"
	"strings"

	"unproxy/transparent/returnpath"
)

// remains are parts of an earlier plan for the same host names.
type remains struct {
	rules  []hostRule
	tables []string // of nftables
}

// Stale returns the commands that remove what an earlier plan for the same backends
// has left on this host: their names resolved to other addresses then. [Remove] runs
// these commands as well. Without names there is nothing stale. It ignores the
// packet filter if that cannot be read.
func Stale(ctx context.Context, p returnpath.Plan) ([]string, error) {
	stale, err := findStale(ctx, p)
	if errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	var all []string
	for _, r := range stale.rules {
		all = append(all, r.labelled().Removal())
	}
	for _, name := range stale.tables {
		all = append(all, "nft delete table inet "+name)
	}
	return all, err
}

// findStale finds the rules and tables with the plan's numbers and owner that are
// not part of it.
func findStale(ctx context.Context, p returnpath.Plan) (remains, error) {
	var stale remains
	o := p.Options
	if o.Owner == 0 || o.Owner == returnpath.DefaultOwner {
		return stale, nil
	}
	present, err := hostRules()
	if err != nil {
		return stale, err
	}
	for _, r := range present {
		ours := !r.other && r.owner == o.Owner && r.Table == o.Table && r.Preference == o.Preference
		// Rules for marked packets are removed with the last table.
		if ours && r.Mark == 0 && !slices.ContainsFunc(p.Rules, r.is) {
			stale.rules = append(stale.rules, r)
		}
	}
	names, err := tables(ctx, returnpath.FilterPrefix(o.Mark))
	if errors.Is(err, exec.ErrNotFound) {
		return stale, nil
	}
	for _, name := range names {
		current := p.Filter != nil && p.Filter.Name() == name
		if !current && strings.HasSuffix(name, returnpath.FilterSuffix(o.Owner)) {
			stale.tables = append(stale.tables, name)
		}
	}
	return stale, err
}
