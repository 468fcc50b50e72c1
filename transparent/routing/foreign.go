package routing

import (
	"math"

	"unproxy/transparent/returnpath"
)

// ForeignReturnPaths returns the commands that remove the return paths of other
// programs from this host: the rules whose table makes every address local, as the
// instructions of most transparent proxies set up, then the routes of those tables. It
// leaves out rules with a label that a plan can have. It returns nil if there is none.
//
// A command to delete a rule names its preference, but not the mask of a mark: the
// kernel compares only what is named (rule_find in fib_rules.c).
func ForeignReturnPaths() ([]string, error) {
	all, err := hostRules()
	if err != nil {
		return nil, err
	}
	var rules, routes []string
	seen := map[returnpath.Route]bool{}
	for _, r := range all {
		to := returnpath.Route{IPv6: r.IPv6, Table: r.Table}
		if isSystemTable(r.Table) || returnpath.IsOwner(r.owner) {
			continue
		}
		local, known := seen[to]
		if !known {
			if local, err = hasRoute(to); err != nil {
				return nil, err
			}
			seen[to] = local
			if local {
				routes = append(routes, to.Removal())
			}
		}
		if local {
			rules = append(rules, r.withoutMask().Removal())
		}
	}
	return append(rules, routes...), nil
}

// withoutMask returns the rule without its mark if it compares only some bits of it.
func (r hostRule) withoutMask() returnpath.Rule {
	if r.mask != math.MaxUint32 {
		r.Mark = 0
	}
	return r.Rule
}

// isSystemTable reports whether a table is default, main or local, which every host
// has (linux/rtnetlink.h), or is none.
func isSystemTable(table uint32) bool { return table == 0 || 253 <= table && table <= 255 }
