package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// workers is how many mutants are built and tested at a time.
	workers = 2
	// baselineLimit is the limit of the unchanged tests in one package.
	baselineLimit = 2 * time.Minute
)

// tryAll tries the mutants and tells of each, one at a time, in any order. Also those that no test
// seems to reach: the profile does not have what processes do that a test starts.
func (l lab) tryAll(ctx context.Context, all []mutant, reached coverage, tell func(mutant, verdict) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan mutant)
	var telling sync.Mutex
	var working sync.WaitGroup
	for worker := range workers {
		working.Go(func() {
			for m := range queue {
				v, err := l.try(ctx, m, worker)
				if v == survived && !reached.reaches(m) {
					v = uncovered
				}
				if err != nil {
					cancel(fmt.Errorf("%s: %w", m.name(), err))
					continue
				}
				telling.Lock()
				if err := tell(m, v); err != nil {
					cancel(err)
				}
				telling.Unlock()
			}
		})
	}
	for _, m := range all {
		if ctx.Err() != nil {
			break
		}
		queue <- m
	}
	close(queue)
	working.Wait()
	return context.Cause(ctx)
}

// report counts verdicts and prints those that somebody must look at.
type report struct {
	known    known
	options  options
	counts   map[verdict]int
	excused  int
	problems int // entries of the list that are not needed
}

// stale reports entries of the list whose mutant no longer exists.
func (r *report) stale(all []mutant) {
	for name := range r.known.reasons {
		if !slices.ContainsFunc(all, func(m mutant) bool { return m.name() == name }) {
			fmt.Printf("listed, but there is no such mutant: %s\n", name)
			r.problems++
		}
	}
}

func (r *report) add(m mutant, v verdict) {
	_, listed := r.known.reasons[m.name()]
	switch {
	case v == survived && listed:
		r.excused++
	case listed:
		fmt.Printf("listed, but %s: %s\n", v, m.name())
		r.problems++
		r.counts[v]++
	default:
		r.counts[v]++
	}
	if (v == survived || v == uncovered) && !listed || r.options.verbose {
		fmt.Printf("%s, line %d: %s\n", v, m.line, m.name())
	}
}

// finish prints the sums and reports whether the goal is reached.
func (r *report) finish() bool {
	dead := r.counts[killed] + r.counts[endless]
	tried := dead + r.counts[survived]
	fmt.Printf("\n%s, part %d of %d: %d killed (%d of them endless), %d survived, %d survived and change nothing; "+
		"%d not covered, %d not built\n", r.options.directory, r.options.part, r.options.parts,
		dead, r.counts[endless], r.counts[survived], r.excused, r.counts[uncovered], r.counts[unbuilt])
	if tried == 0 {
		fmt.Println("no mutant was tried")
		return false
	}
	percent := 100 * float64(dead) / float64(tried)
	fmt.Printf("%.1f %% of %d killed, the goal is %g %%\n", percent, tried, r.options.goal)
	return percent >= r.options.goal && r.problems == 0
}
