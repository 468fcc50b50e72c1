package doctor

import (
	"fmt"
	"slices"

	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
)

// problems returns what the results of the tested targets, by key, mean for the
// forwards.
func problems(forwards []*forward.Forward, tested []*target, results map[string]testResult) []readiness.Problem {
	var all []readiness.Problem
	for i, f := range forwards {
		p := readiness.Problem{Forward: i, Serves: true}
		var failed []Finding
		for _, l := range ends(f.Listeners) {
			at := slices.DeleteFunc(slices.Clone(tested), func(t *target) bool { return !slices.Contains(t.listeners, l) })
			for _, t := range at {
				r := results[t.key()]
				if r.failed() && !slices.ContainsFunc(failed, func(f Finding) bool { return f.Target == t.name }) {
					failed = append(failed, r.finding)
				}
			}
			p.Serves = p.Serves && servesAll(l, at, results)
		}
		if len(failed) == 0 {
			continue
		}
		p.Detail = failed[0].Target + ": " + failed[0].Detail
		if n := len(failed) - 1; n > 0 {
			p.Detail += fmt.Sprintf("; and %d more", n)
		}
		all = append(all, p)
	}
	return all
}

// servesAll reports whether each client of a listener has a backend whose return path
// is not known to fail. Backends that are not tested, such as unix sockets, count.
func servesAll(l *forward.Listener, tested []*target, results map[string]testResult) bool {
	if slices.ContainsFunc(l.Backends, func(b forward.Backend) bool { return b.FromHeader || b.Endpoint.IsUnix() }) {
		return true
	}
	var present, served [2]bool // by family: IPv4, IPv6
	familyOnly := false
	for _, t := range tested {
		family := 0
		if t.at.Addr().Is6() {
			family = 1
		}
		present[family] = true
		served[family] = served[family] || !results[t.key()].failed()
		familyOnly = familyOnly || t.familyOnly
	}
	if familyOnly {
		return served == present
	}
	return served[0] || served[1] || present == [2]bool{}
}
