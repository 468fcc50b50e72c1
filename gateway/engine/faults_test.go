package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/integration_test/errnos"
	"unproxy/integration_test/race"
)

// kernelMethods lists what an engine calls: the methods of [kernel.Kernel], and those of
// [kernel.Batch] with its name before theirs.
func kernelMethods() (all []string) {
	for m := range reflect.TypeFor[kernel.Kernel]().Methods() {
		all = append(all, m.Name)
	}
	for m := range reflect.TypeFor[kernel.Batch]().Methods() {
		all = append(all, "Batch."+m.Name)
	}
	return all
}

// Each method has a row, and each row a method.
func TestFaultRows(t *testing.T) {
	methods := kernelMethods()
	for _, m := range methods {
		row, ok := faultRows[m]
		if !ok {
			t.Errorf("method %s has no row in faultRows: say how it can fail and what follows", m)
			continue
		}
		if fails := len(row.errors) > 0; fails != (row.in != nil || row.start || row.drain) || fails == (row.never != "") {
			t.Errorf("the row of %s is incomplete", m)
		}
	}
	for m := range faultRows {
		if !slices.Contains(methods, m) {
			t.Errorf("the row of %s belongs to no method", m)
		}
	}
}

// firing collects the places where calls have failed.
type firing struct {
	sync.Mutex
	places map[place]bool
}

// Each call of a connection's life fails with each error, once or from then on. The record and what both
// ends see fit, nothing leaks, and others are served all the time.
func TestFaults(t *testing.T) {
	fired := firing{places: map[place]bool{}}
	t.Run("tours", func(t *testing.T) {
		exhausted := map[place]bool{} // places whose errors have all been tried in an earlier tour
		for i := range tours {
			o := &tours[i]
			p := newPlay(t, o, nil)
			c := p.run()
			if c == nil || c.Outcome != o.outcome {
				t.Fatalf("%s ends without a fault as %+v", o.name, c)
			}
			p.expectBytes(c)
			p.expectService()
			all := o.faults(p.faulty.made, exhausted)
			t.Run(o.name, func(t *testing.T) {
				t.Parallel()
				t.Logf("%d faults", len(all))
				for i, f := range all {
					if race.Enabled && o.relays && i%4 > 0 {
						continue // bulk is slow then, and there is but one goroutine
					}
					o.fail(t, f, &fired)
				}
			})
		}
	})
	for method, row := range faultRows {
		for in := range row.in {
			if !race.Enabled && !fired.places[place{method, in}] {
				t.Errorf("no call of %s failed in the state %v", method, in)
			}
		}
	}
}

// faults lists what is to fail in a tour. The first tour that comes to a place tries all errors there,
// the others one of each kind.
func (o *tour) faults(made map[place]int, exhausted map[place]bool) (all []fault) {
	for at, n := range made {
		if o.relays && at.state != relaying || at.method == "Wait" && exhausted[at] {
			continue
		}
		first := !exhausted[at]
		exhausted[at] = true
		for _, c := range errnos.Cases(faultRows[at.method].errors, n, first) {
			all = append(all, fault{at.method, at.state, c.Nth, c.Errno, c.Lasts})
		}
	}
	return all
}

// fail plays a tour with a fault and checks what follows from it.
func (o *tour) fail(t *testing.T, f fault, fired *firing) {
	name := fmt.Sprintf("%s: call %d of %s in state %v: %v, lasts %v", o.name, f.nth, f.method, f.state, f.errno, f.lasts)
	p := newPlay(&errnos.Named{T: t, Fault: name}, o, &f)
	c := p.run()
	if p.faulty.hit == 0 {
		t.Errorf("%s: it was never made", name)
	}
	fired.Lock()
	fired.places[place{f.method, f.state}] = true
	fired.Unlock()
	p.expectOutcome(&f, c)
	if c != nil {
		p.expectBytes(c)
	}
	p.expectService()
	if n := len(p.rig.records); c != nil && p.reported(1).Outcome != c.Outcome {
		t.Errorf("%s: %d records", name, n)
	}
}

func (p *play) expectOutcome(f *fault, c *record.Connection) {
	p.Helper()
	rules, ok := faultRows[f.method].in[f.state]
	if !ok {
		p.Error("the row has no rules for this state")
		return
	}
	i := slices.IndexFunc(rules, func(r rule) bool { return len(r.errors) == 0 || slices.Contains(r.errors, f.errno) })
	got := unserved
	if c != nil {
		got = c.Outcome
	}
	var want []record.Outcome
	for _, outcome := range rules[i].outcomes {
		if outcome == unaffected {
			outcome = p.outcome
		}
		want = append(want, outcome)
	}
	if len(p.backends) > 1 || p.resets || p.ignores == f.method {
		want = append(want, p.outcome) // another backend is tried, or the backend has reset before
	}
	if slices.Contains(errnos.Shortage, f.errno) {
		want = append(want, p.retried...)
	}
	if !slices.Contains(want, got) {
		p.Errorf("ended as %d (%s), want one of %d", got, word(c), want)
		return
	}
	if c == nil || got == p.outcome || f.method == "HasSource" {
		return
	}
	if got == record.Internal || got == record.Limit {
		if !strings.Contains(c.Reason, f.errno.Error()) || c.By != record.Gateway && !p.unix {
			p.Errorf("%v by %v, reason %q", got, c.By, c.Reason)
		}
	}
}

func word(c *record.Connection) string {
	if c == nil {
		return "no record"
	}
	return fmt.Sprintf("%v in %v by %v: %s", c.Outcome, c.Phase, c.By, c.Reason)
}

// startForwards are forwards whose start makes every kind of call.
func startForwards() []*forward.Forward {
	f, unixSocket := transparently(plainForward(serverA)), plainForward(serverA)
	f.TProxy = true
	f.Listeners[0].Endpoint = forward.Endpoint{Addr: netip.MustParseAddrPort("[::]:80")}
	unixSocket.Listeners[0].Endpoint = forward.Endpoint{Path: "@socket"}
	return []*forward.Forward{unixSocket, f}
}

// New fails with the error of each call, and leaves nothing open. Without batches, it makes single calls.
func TestStartFaults(t *testing.T) {
	made := startWith(t, nil)
	for method, row := range faultRows {
		if !row.start {
			continue
		}
		n := made[place{method: method}]
		if n == 0 {
			t.Errorf("New does not call %s", method)
		}
		for nth := range n {
			for _, errno := range row.errors {
				startWith(t, &fault{method: method, nth: nth, errno: errno})
			}
		}
	}
	for at := range made {
		if !faultRows[at.method].start {
			t.Errorf("New calls %s, which has no start in its row", at.method)
		}
	}
}

func startWith(t *testing.T, f *fault) map[place]int {
	t.Helper()
	k := &faulty{script: newScript(t, 0), fault: f, made: map[place]int{}, armed: true}
	e, err := New(Config{Kernel: k, Loops: 2, Forwards: startForwards()})
	switch {
	case f == nil && err != nil:
		t.Fatal(err)
	case f != nil && f.method != "Batch":
		if !errors.Is(err, f.errno) || k.used != 0 || k.batches != 0 {
			t.Errorf("%+v: %v, %d descriptors and %d batches are open", f, err, k.used, k.batches)
		}
		return nil
	case err != nil:
		t.Errorf("%+v: %v", f, err)
		return nil
	}
	k.armed = false
	e.closeAll()
	if k.used != 0 || k.batches != 0 {
		t.Errorf("%+v: %d descriptors and %d batches are open", f, k.used, k.batches)
	}
	return k.made
}

// A drain ends, and existing connections continue, whatever fails.
func TestDrainFaults(t *testing.T) {
	for _, method := range []string{"RefuseHandshakes", "Accept"} {
		for _, errno := range faultRows[method].errors {
			for _, lasts := range []bool{false, true} {
				drainWith(t, &fault{method: method, errno: errno, lasts: lasts})
			}
		}
	}
}

func drainWith(t *testing.T, f *fault) {
	t.Helper()
	p := newPlay(t, &tours[0], f)
	p.script.filters = f.method == "RefuseHandshakes"
	if f.method == "Accept" {
		p.arrive(p.listenerSocket(1), lb).deliver([]byte(header))
	}
	p.faulty.armed = true
	p.engine.StopAccepting()
	p.settle()
	p.advance(gracePeriod * 2)
	if p.faulty.hit == 0 {
		t.Errorf("%+v: it was never made", f)
	}
	p.faulty.armed = false
	for _, ln := range p.engine.listeners {
		if ln.fd >= 0 {
			t.Errorf("%+v: listener %s is open", f, ln.Name)
		}
	}
	for _, o := range p.others {
		o.front.deliver([]byte("ping"))
		p.settle()
		if string(o.back.received) != "ping" {
			t.Errorf("%+v: a connection got %q during the drain", f, o.back.received)
		}
	}
	p.engine.Cut()
	p.settle()
	p.expectClean()
	if p.leaked(listening) != 0 {
		t.Errorf("%+v: %d listeners are open", f, p.leaked(listening))
	}
}

// A hand-over that fails leaves the sockets as they were.
func TestDuplicateFaults(t *testing.T) {
	for _, errno := range faultRows["Duplicate"].errors {
		for _, lasts := range []bool{false, true} {
			p := newPlay(t, &tours[0], &fault{method: "Duplicate", errno: errno, lasts: lasts})
			before := p.used
			p.faulty.armed = true
			c := p.engine.copySockets()
			p.settle()
			p.faulty.armed = false
			if sockets, err := c.result(); !errors.Is(err, errno) || sockets != nil || p.used != before {
				t.Errorf("%v: %v, %v, %d descriptors are open, %d before", errno, sockets, err, p.used, before)
			}
			p.expectService()
		}
	}
}
