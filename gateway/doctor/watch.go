package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"unproxy/gateway/config"
	"unproxy/gateway/readiness"
	"unproxy/transparent/returnpath"
)

// Event is a change in the state of a backend's return path.
type Event struct {
	State State
	// First reports whether the state was unknown before.
	First bool
	// Promise means that the event is about the promise of the backend's host to read
	// clients' addresses from a TCP option, which takes the place of a return path.
	Promise bool
	// Backend is the backend, and Forwards the listeners that lead to it.
	Backend  string
	Forwards []string
	// Detail describes the state, and Hint is how to fix it, on one line. Both are
	// "" if State is [Works].
	Detail, Hint string
}

// State is the state of a backend's return path.
type State uint8

// The values of [State].
const (
	// Untested: the backend does not answer the gateway either, so the test is
	// inconclusive.
	Untested State = iota
	// Works: a client is answered.
	Works
	// Broken: a client is not answered, and the gateway is.
	Broken
	// Rewritten: a client is answered, but a rule of this host rewrites its address:
	// the backend sees another one.
	Rewritten
)

// WatchConfig configures a [Watch]. All fields must be set.
type WatchConfig struct {
	Host   Host
	Config *config.Config
	// Readiness has a problem [readiness.ReturnPath] for each forward while the
	// return path of one of its backends is broken or clients' addresses are
	// rewritten, and [readiness.TOA] while the host of one does not promise to read
	// them.
	Readiness *readiness.State
	// Notice is called for each event, by the goroutine of [Watch.Run].
	Notice func(Event)
	// ApplyCommand is the shell command that applies the routes. It replaces hints
	// that do not fit a line.
	ApplyCommand string
	// PrintCommand is the shell command that prints the script for a backend's
	// host.
	PrintCommand string
}

// Watch tests the return paths while a gateway runs, off the data path, and
// provides a hint for each backend. UDP backends are not tested.
type Watch struct {
	WatchConfig
	hints hints
	// known has the last conclusive result of each target, by key.
	known map[string]testResult
	// findings are those of the last round.
	findings atomic.Pointer[[]Finding]
}

// NewWatch returns a watch, which [Watch.Run] starts.
func NewWatch(c WatchConfig) *Watch {
	c.Host = c.Host.withoutPrograms()
	return &Watch{WatchConfig: c, known: map[string]testResult{}}
}

// Hint returns how to restore the return path of a backend, on one line, or "" if
// the configuration does not name the backend. It is safe for concurrent use and
// neither blocks nor allocates.
func (w *Watch) Hint(backend netip.Addr) string { return w.hints.find(backend) }

// BypassHint returns how to have a backend's replies to a client return through
// the gateway if both are in one network, so that the backend may reply to the
// client directly. Otherwise it returns "". It is safe for concurrent use and does
// not block.
func (w *Watch) BypassHint(backend, client netip.Addr) string {
	if !w.hints.sameNetwork(backend, client) {
		return ""
	}
	return w.PrintCommand + " | ssh root@" + backend.String() + " sh"
}

// Findings returns the findings of the last round, one for each tested backend, or
// nil before the first round has ended. The caller must not modify them. It is safe
// for concurrent use.
func (w *Watch) Findings() []Finding {
	if all := w.findings.Load(); all != nil {
		return slices.Clip(*all)
	}
	return nil
}

func (w *Watch) resolve(ctx context.Context) map[string]resolved {
	return resolve(ctx, w.Host.Lookup, w.Config.Forwards)
}

// plan returns the plan for the current addresses of names.
func (w *Watch) plan(ctx context.Context, names map[string]resolved) returnpath.Plan {
	p, err := w.Host.Plan(ctx, w.Config, func(_ context.Context, name string) ([]netip.Addr, error) {
		return names[name].addresses, names[name].err
	})
	if err != nil && len(p.Backends) == 0 {
		return returnpath.Plan{}
	}
	return p
}

// round tests the return paths once: all of them, or those alone that do not work.
// It changes nothing if ctx is done.
func (w *Watch) round(ctx context.Context, all bool) {
	names := w.resolve(ctx)
	plan := w.plan(ctx, names)
	tested := slices.DeleteFunc(targets(w.Config.Forwards, names), func(t *target) bool { return !t.spoof && !t.toa.On || t.udp })
	results := make(map[*target]testResult, len(tested))
	var mu sync.Mutex
	forEach(tested, func(t *target) {
		before, known := w.known[t.key()]
		r := before
		if all || !known || before.failed() {
			r = w.test(ctx, plan, t, quickly(before, all))
		}
		mu.Lock()
		defer mu.Unlock()
		results[t] = r
	})
	if ctx.Err() != nil {
		return // the results are incomplete
	}
	w.update(plan, tested, results)
}

// update records the results of a round. An inconclusive result does not replace a
// conclusive one.
func (w *Watch) update(plan returnpath.Plan, tested []*target, results map[*target]testResult) {
	var all []Finding
	byAddress := map[netip.Addr]Finding{}
	known := make(map[string]testResult, len(tested))
	for _, t := range tested {
		r := results[t]
		w.notify(t, r)
		if before, ok := w.known[t.key()]; ok && r.state == Untested {
			r = before
		}
		known[t.key()] = r
		all = append(all, r.finding)
		if r.state == Broken && t.spoof {
			byAddress[t.at.Addr()] = r.finding
		}
	}
	w.known = known
	w.findings.Store(&all)
	w.hints.replace(plan, byAddress, w.Host.linkNetworks(plan), w.ApplyCommand)
	for word, of := range map[string]func(*target) bool{
		readiness.ReturnPath: func(t *target) bool { return t.spoof },
		readiness.TOA:        func(t *target) bool { return t.toa.On },
	} {
		some := slices.DeleteFunc(slices.Clone(tested), func(t *target) bool { return !of(t) })
		w.Readiness.SetProblems(word, problems(w.Config.Forwards, some, known))
	}
}

// notify calls Notice if the state of a target has changed. A return path that
// works in the first round is not an event; one that cannot be tested is.
func (w *Watch) notify(t *target, r testResult) {
	before, known := w.known[t.key()]
	switch {
	case known && (r.state == Untested || r.state == before.state):
		return
	case !known && (r.state == Works || r.state == Untested && t.onDemand):
		return
	}
	e := Event{Promise: t.toa.On, State: r.state, First: !known || before.state == Untested, Backend: t.name}
	for _, l := range t.listeners {
		e.Forwards = append(e.Forwards, l.Name)
	}
	if r.state != Works {
		e.Detail, e.Hint = r.finding.Detail, hintLine(r.finding.Hint, w.ApplyCommand)
	}
	w.Notice(e)
}

// key identifies a target across rounds.
func (t *target) key() string { return fmt.Sprintf("%s %d %v", t.at, t.mark, t.toa) }

// testResult is the result of testing a return path.
type testResult struct {
	state   State
	finding Finding
}

// failed reports whether the test says that clients are not served.
func (r testResult) failed() bool { return r.state == Broken || r.state == Rewritten }

// quickly returns the result that a further connection without an answer confirms:
// that of a return path that was broken before, unless all are tested.
func quickly(before testResult, all bool) *testResult {
	if all || before.state != Broken {
		return nil
	}
	return &before
}

// test tests one return path. If it works, the test is a single connection, which
// the backend's program does not see. If broken is set and the connection is not
// answered, the result is still that.
func (w *Watch) test(ctx context.Context, plan returnpath.Plan, t *target, broken *testResult) testResult {
	h := w.Host
	if t.toa.On {
		return h.testPromise(ctx, t)
	}
	client, sent, err := h.tryClient(ctx, t)
	switch a := answerOf(err); {
	case a == answered:
		return h.answeredClient(ctx, t, client, sent)
	case a == refused && t.onDemand: // its RST has come back
		return testResult{Works, finding(ReturnPath, t.name, OK, "a client's connection is refused, and the RST returns")}
	case broken != nil && (a == silent || a == unreachable):
		return *broken
	}
	t.plain = h.connectPlain(ctx, t)
	if t.plain.answer != answered {
		return testResult{Untested, finding(ReturnPath, t.name, Skip,
			"the backend does not answer the gateway either: %v", t.plain.err)}
	}
	// Retry: the packet may have been lost, or the server may have just started.
	client, sent, err = h.tryClient(ctx, t)
	switch answerOf(err) {
	case answered:
		return h.answeredClient(ctx, t, client, sent)
	case refused: // an RST has come back, too
		return testResult{Works, finding(ReturnPath, t.name, OK, "a client is answered")}
	case silent, unreachable:
		return testResult{Broken, h.diagnose(ctx, plan, unanswered{t, client, "", w.PrintCommand})[0]}
	}
	return testResult{Untested, finding(ReturnPath, t.name, Skip, "not tested: %v", err)}
}

// answeredClient returns the result of a test that was answered.
func (h Host) answeredClient(ctx context.Context, t *target, client, sent netip.AddrPort) testResult {
	if f, found := h.rewritten(ctx, t, client, sent); found {
		return testResult{Rewritten, f}
	}
	how := ""
	if !sent.IsValid() {
		how = h.unseen()
	}
	return testResult{Works, finding(ReturnPath, t.name, OK, "a client is answered%s", how)}
}
