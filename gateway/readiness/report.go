package readiness

import (
	"fmt"
	"slices"
)

// Report is the readiness of a gateway at one time.
type Report struct {
	// Reasons concern all forwards.
	Reasons []Reason
	// Forwards are the forwards, in the order of the configuration.
	Forwards []Forward
}

// Forward is the readiness of one forward.
type Forward struct {
	// Serves reports whether it can serve all clients that it is for.
	Serves bool
	// Reasons say what impairs it alone; there may be some although it serves.
	Reasons []Reason
}

// Degraded reports whether anything impairs the forward.
func (f Forward) Degraded() bool { return len(f.Reasons) > 0 }

// For returns the report of some forwards alone.
func (r Report) For(forwards []int) Report {
	part := Report{Reasons: r.Reasons, Forwards: make([]Forward, len(forwards))}
	for i, index := range forwards {
		part.Forwards[i] = r.Forwards[index]
	}
	return part
}

// Ready reports whether the forward with an index is ready for new connections.
func (r Report) Ready(forward int) bool { return len(r.Reasons) == 0 && r.Forwards[forward].Serves }

// None returns the reasons why no forward can serve; none if one can, and none if
// there are no forwards and no reasons.
func (r Report) None() []Reason {
	return r.unless(slices.ContainsFunc(r.Forwards, func(f Forward) bool { return f.Serves }))
}

// NotAll returns the reasons why not every forward can serve; none if all can.
func (r Report) NotAll() []Reason {
	return r.unless(!slices.ContainsFunc(r.Forwards, func(f Forward) bool { return !f.Serves }))
}

// Impaired returns the reasons why the gateway or any forward is impaired; none if
// nothing is.
func (r Report) Impaired() []Reason {
	return r.unless(!slices.ContainsFunc(r.Forwards, Forward.Degraded))
}

// unless returns the reasons that concern all forwards, and those of single forwards
// unless these are good enough. The reasons of single forwards with the same word are one.
func (r Report) unless(goodEnough bool) []Reason {
	all := slices.Clone(r.Reasons)
	if goodEnough {
		return all
	}
	more := map[string]int{}
	var merged []Reason
	for _, f := range r.Forwards {
		for _, reason := range f.Reasons {
			if n, known := more[reason.Word]; known {
				more[reason.Word] = n + 1
				continue
			}
			more[reason.Word] = 0
			merged = append(merged, reason)
		}
	}
	for i, reason := range merged {
		if n := more[reason.Word]; n > 0 {
			merged[i].Detail += fmt.Sprintf("; and %d of other forwards", n)
		}
	}
	all = append(all, merged...)
	sortReasons(all)
	return all
}
