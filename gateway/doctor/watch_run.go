package doctor

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// retryEvery is the time between the starts of two rounds while a return path
	// does not work, if the interval is not shorter. retryPause is the least time
	// from the end of one to the start of the next.
	retryEvery = 1500 * time.Millisecond
	retryPause = 250 * time.Millisecond
	// settle is how long the changes that follow one are awaited: a command often
	// makes several.
	settle = 100 * time.Millisecond
	// changeEvery is the least time between the starts of two rounds for changes
	// while all return paths work. A round that begins again counts once.
	changeEvery = time.Second
)

// Run tests all return paths at once, then about every interval and after changes of
// the host's routes, until ctx is done. Those that do not work are tested again every
// one or two seconds. It calls first after the first round. If interval is not
// positive, Run makes no tests: it builds the hints, calls first and returns.
func (w *Watch) Run(ctx context.Context, interval time.Duration, first func()) {
	if interval <= 0 {
		plan := w.plan(ctx, w.resolve(ctx))
		w.hints.replace(plan, nil, w.Host.linkNetworks(plan), w.ApplyCommand)
		first()
		return
	}
	changes := make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { w.Host.Changes(ctx, func() { note(changes) }) })
	p := pace{interval: interval, changes: changes}
	for p.begin(true); p.round(ctx, w); {
		if first != nil {
			first()
			first = nil
		}
		if !p.wait(ctx, w.failing()) {
			return
		}
	}
}

// failing reports whether a return path does not work.
func (w *Watch) failing() bool {
	for _, r := range w.known {
		if r.failed() {
			return true
		}
	}
	return false
}

// pace says when the rounds of a watch begin.
type pace struct {
	interval time.Duration
	changes  <-chan struct{}

	all   bool      // the round tests all return paths
	began time.Time // the round
	next  time.Time // when all are due
}

// begin begins a round.
func (p *pace) begin(all bool) {
	p.began = time.Now()
	if p.all = all; all {
		p.next = p.began.Add(jitter(p.interval))
	}
}

// round tests return paths and reports whether ctx is not done. A change makes the
// results of tests that wait for answers out of date: they begin again, once.
func (p *pace) round(ctx context.Context, w *Watch) bool {
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.round(limited, p.all)
	}()
	select {
	case <-ended:
	case <-p.changes:
		cancel()
		<-ended
		if !sleep(ctx, settle) {
			return false
		}
		p.drain()
		p.begin(true)
		w.round(ctx, true)
	}
	return ctx.Err() == nil
}

// wait waits for the time of the next round and begins it. It returns false when ctx
// is done.
func (p *pace) wait(ctx context.Context, failing bool) bool {
	due, all := p.next, true
	if failing {
		retry := p.began.Add(jitter(min(retryEvery, p.interval)))
		if least := time.Now().Add(min(retryPause, p.interval)); retry.Before(least) {
			retry = least
		}
		if retry.Before(due) {
			due, all = retry, false
		}
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-p.changes:
		pause := settle
		if !failing {
			pause = max(pause, time.Until(p.began.Add(changeEvery)))
		}
		if !sleep(ctx, pause) {
			return false
		}
		p.drain()
		all = true
	}
	p.begin(all)
	return true
}

// note notes a change, unless one is noted already.
func note(changes chan<- struct{}) {
	select {
	case changes <- struct{}{}:
	default:
	}
}

// drain forgets a change that is noted.
func (p *pace) drain() {
	select {
	case <-p.changes:
	default:
	}
}

// sleep sleeps and returns false if ctx is done before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// jitter returns a duration that differs by up to 10 % from d, so that gateways
// that start together do not test together.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d)/5+1))
}
