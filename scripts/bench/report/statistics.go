package report

import "slices"

// Summary is a median and its spread.
type Summary struct{ Median, Least, Most float64 }

// Summarize returns the summary of values, and false if there are none.
func Summarize(v []float64) (Summary, bool) {
	if len(v) == 0 {
		return Summary{}, false
	}
	v = slices.Sorted(slices.Values(v))
	return Summary{(v[(len(v)-1)/2] + v[len(v)/2]) / 2, v[0], v[len(v)-1]}, true
}

// values returns a metric of the runs that count and have it.
func values(runs []Run, m Metric) (v []float64) {
	for _, r := range runs {
		if x, ok := r.Values[m]; ok && r.Failure == "" {
			v = append(v, x)
		}
	}
	return v
}

// ratios returns the ratios of a metric of base to that of other, for each round in which
// both count.
func ratios(base, other []Run, m Metric) (v []float64) {
	of := map[moment]float64{}
	for _, r := range base {
		if x, ok := r.Values[m]; ok && r.Failure == "" {
			of[r.moment()] = x
		}
	}
	for _, r := range other {
		x, ok := r.Values[m]
		b, both := of[r.moment()]
		if ok && both && r.Failure == "" && x != 0 {
			v = append(v, b/x)
		}
	}
	return v
}

// selection is a number of runs.
type selection []Run

// of returns the runs for which a condition holds.
func (s selection) of(holds func(Run) bool) (some selection) {
	for _, r := range s {
		if holds(r) {
			some = append(some, r)
		}
	}
	return some
}

func (s selection) section(name string) selection {
	return s.of(func(r Run) bool { return r.Section == name })
}
func (s selection) mode(name string) selection {
	return s.of(func(r Run) bool { return r.Mode == name })
}
func (s selection) row(name string) selection {
	return s.of(func(r Run) bool { return r.Row == name })
}
func (s selection) program(name string) selection {
	return s.of(func(r Run) bool { return r.Program == name })
}

// names returns the distinct values of a field, in the order of their first run.
func (s selection) names(of func(Run) string) (all []string) {
	for _, r := range s {
		if n := of(r); !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all
}

func (s selection) rows() []string  { return s.names(func(r Run) string { return r.Row }) }
func (s selection) modes() []string { return s.names(func(r Run) string { return r.Mode }) }

// programs returns the programs, unproxy first.
func (s selection) programs() []string {
	all := s.names(func(r Run) string { return r.Program })
	if i := slices.Index(all, Base); i > 0 {
		all = slices.Insert(slices.Delete(all, i, i+1), 0, Base)
	}
	return all
}
