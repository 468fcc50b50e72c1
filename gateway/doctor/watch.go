package doctor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"unproxy/gateway/config"
	"unproxy/gateway/readiness"
	"unproxy/transparent/returnpath"
)

// Event is a change in what is known of a way back.
type Event struct {
	// State is what it is now, and First whether nothing was known before.
	State State
	First bool
	// Backend is the server, and Forwards the listeners that lead to it.
	Backend  string
	Forwards []string
	// Detail says what was seen, and Action what mends it, in one line; both
	// are "" where it works.
	Detail, Action string
}

// State is what is known of the way back of a backend.
type State uint8

// The states.
const (
	// Untested: the backend does not answer the gateway either, so that
	// nothing can be told.
	Untested State = iota
	Works
	Broken
)

// WatchConfig is what a [Watch] needs.
type WatchConfig struct {
	Host   Host
	Config *config.Config
	// Readiness is told while a way back is broken.
	Readiness *readiness.State
	// Notice is told of each change, from one goroutine.
	Notice func(Event)
	// Apply is the command that puts the way back into force, for remedies
	// that are too long for a line, and Printing that which prints what a
	// backend's host needs.
	Apply, Printing string
}

// Watch tests the ways back while a gateway runs, off the data path, and keeps
// the remedy for each backend at hand.
type Watch struct {
	WatchConfig
	remedies remedies
	// known is what the last round left; what was never tested is not in it.
	known map[string]verdict
	// findings are its findings, for others to see.
	findings atomic.Pointer[[]Finding]
}

// NewWatch returns a watch that has not begun.
func NewWatch(c WatchConfig) *Watch {
	c.Host = c.Host.withoutPrograms()
	return &Watch{WatchConfig: c, known: map[string]verdict{}}
}

// Run tests at once and then again about every interval, until ctx is done.
// first is called after the first round. With an interval of 0 nothing is
// tested: the remedies are made, once.
func (w *Watch) Run(ctx context.Context, interval time.Duration, first func()) {
	if interval <= 0 {
		w.remedies.learn(w.plan(ctx, w.resolve(ctx)), nil, w.Apply)
		first()
		return
	}
	for w.round(ctx); ; w.round(ctx) {
		if first != nil {
			first()
			first = nil
		}
		// Gateways that were started together must not test together.
		jitter := time.Duration(rand.Int64N(int64(interval)/5 + 1))
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval - interval/10 + jitter):
		}
	}
}

// Remedy returns what brings the replies of a backend back, in one line; "" for
// one that the configuration does not name. It neither blocks nor allocates.
func (w *Watch) Remedy(backend netip.Addr) string { return w.remedies.find(backend) }

// Findings returns what the last round left: one finding for each backend that
// is tested, none before the first round has ended. The caller must not change
// it. It may be called from any goroutine.
func (w *Watch) Findings() []Finding {
	if all := w.findings.Load(); all != nil {
		return slices.Clip(*all)
	}
	return nil
}

func (w *Watch) resolve(ctx context.Context) map[string]resolved {
	return resolve(ctx, w.Host.Lookup, w.Config.Forwards)
}

// plan makes the plan for what the names are now.
func (w *Watch) plan(ctx context.Context, names map[string]resolved) returnpath.Plan {
	p, err := w.Host.Plan(ctx, w.Config, func(_ context.Context, name string) ([]netip.Addr, error) {
		return names[name].addresses, names[name].err
	})
	if err != nil && len(p.Backends) == 0 {
		return returnpath.Plan{}
	}
	return p
}

// round tests every way back once.
func (w *Watch) round(ctx context.Context) {
	names := w.resolve(ctx)
	plan := w.plan(ctx, names)
	tested := slices.DeleteFunc(targets(w.Config.Forwards, names), func(t *target) bool { return !t.spoof || t.udp })
	verdicts := make(map[*target]verdict, len(tested))
	var mu sync.Mutex
	each(tested, func(t *target) {
		v := w.verdict(ctx, plan, t)
		mu.Lock()
		defer mu.Unlock()
		verdicts[t] = v
	})
	if ctx.Err() != nil {
		return // what was cut short says nothing
	}
	w.learn(plan, tested, verdicts)
}

// learn takes in the verdicts of a round. What was known stays known while the
// backend is silent.
func (w *Watch) learn(plan returnpath.Plan, tested []*target, verdicts map[*target]verdict) {
	var all, broken []Finding
	byAddress := map[netip.Addr]Finding{}
	known := make(map[string]verdict, len(tested))
	for _, t := range tested {
		v := verdicts[t]
		w.tell(t, v)
		if before, was := w.known[t.key()]; was && v.state == Untested {
			v = before
		}
		known[t.key()] = v
		all = append(all, v.finding)
		if v.state == Broken {
			broken = append(broken, v.finding)
			byAddress[t.at.Addr()] = v.finding
		}
	}
	w.known = known
	w.findings.Store(&all)
	w.remedies.learn(plan, byAddress, w.Apply)
	w.setReadiness(broken)
}

// tell tells of a target whose state has changed. That one works from the
// beginning is no news; that it cannot be tested then is.
func (w *Watch) tell(t *target, v verdict) {
	before, known := w.known[t.key()]
	switch {
	case known && (v.state == Untested || v.state == before.state):
		return
	case !known && v.state == Works:
		return
	}
	e := Event{State: v.state, First: !known || before.state == Untested, Backend: t.name}
	for _, l := range t.listeners {
		e.Forwards = append(e.Forwards, l.Name)
	}
	if v.state != Works {
		e.Detail, e.Action = v.finding.Detail, line(v.finding.Action, w.Apply)
	}
	w.Notice(e)
}

// setReadiness tells of the first of the ways back that are broken.
func (w *Watch) setReadiness(broken []Finding) {
	if len(broken) == 0 {
		w.Readiness.Clear(readiness.ReturnPath)
		return
	}
	detail := broken[0].Target + ": " + broken[0].Detail
	if n := len(broken) - 1; n > 0 {
		detail += fmt.Sprintf("; so it is with %d more", n)
	}
	w.Readiness.Set(readiness.ReturnPath, detail)
}

// key names a target in every round.
func (t *target) key() string { return fmt.Sprintf("%s %d", t.at, t.mark) }

// verdict is what a test says of a way back.
type verdict struct {
	state   State
	finding Finding
}

// verdict tests one way back. In the ordinary case that is one connection, of
// which the backend's program sees nothing.
func (w *Watch) verdict(ctx context.Context, plan returnpath.Plan, t *target) verdict {
	h, client := w.Host, stranger(t.at.Addr().Is6())
	attempt := Attempt{To: t.at, From: client, Mark: t.mark}
	works := verdict{Works, finding(ReturnPath, t.name, OK, "a client is answered")}
	if _, err := h.try(ctx, attempt); err == nil {
		return works
	}
	t.plain = h.plainly(ctx, t)
	if t.plain.answer != answered {
		f := finding(ReturnPath, t.name, Skip, "the backend does not answer the gateway either: %v", t.plain.err)
		return verdict{Untested, f}
	}
	// Once more: packets get lost, and the backend may have come up just now.
	_, err := h.try(ctx, attempt)
	switch answerOf(err) {
	case answered, refused: // a refusal has come back as well
		return works
	case silent, unreachable:
		return verdict{Broken, h.diagnose(ctx, plan, lost{t, client, "", w.Printing})[0]}
	}
	return verdict{Untested, finding(ReturnPath, t.name, Skip, "not tested: %v", err)}
}
