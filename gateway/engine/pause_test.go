package engine

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// pauseCase is a deadline that passes while the process is stopped, as by SIGSTOP or a frozen
// container. begin brings a connection to where the deadline counts, arrives is what comes during
// the pause, and outcome is the outcome if nothing comes.
type pauseCase struct {
	name    string
	setting func(*forward.Forward)
	plans   []plan
	begin   func(r *rig) *file
	arrives func(r *rig, f *file)
	outcome record.Outcome
	ends    bool // what arrives ends the connection, as:
	as      record.Outcome
}

// connectLater is a connect whose result the test decides.
var connectLater = plan{waits: -1}

func (r *rig) finishDial(i int) { r.dials[i].far.finishConnect() }

func openHeader(r *rig) *file { return r.open(header) }

var pauses = []pauseCase{
	{name: "the header arrives", begin: func(r *rig) *file { return r.open("") },
		arrives: func(r *rig, f *file) { f.deliver([]byte(header)) }, outcome: record.HeaderTimeout},
	{name: "the rest of the header arrives", begin: func(r *rig) *file { return r.open(header[:20]) },
		arrives: func(r *rig, f *file) { f.deliver([]byte(header[20:])) }, outcome: record.HeaderTimeout},
	{name: "the client gives up", begin: func(r *rig) *file { return r.open("") },
		arrives: func(r *rig, f *file) { f.sendFIN() }, outcome: record.HeaderTimeout, ends: true, as: record.Empty},
	{name: "the client resets", begin: func(r *rig) *file { return r.open("") },
		arrives: func(r *rig, f *file) { f.reset() }, outcome: record.HeaderTimeout, ends: true, as: record.Empty},
	{name: "the client resets amid the header", begin: func(r *rig) *file { return r.open(header[:20]) },
		arrives: func(r *rig, f *file) { f.reset() }, outcome: record.HeaderTimeout, ends: true, as: record.Reset},
	{name: "the rest of the header arrives, and a RST", begin: func(r *rig) *file { return r.open(header[:20]) },
		arrives: func(r *rig, f *file) { f.deliver([]byte(header[20:])); f.reset() },
		outcome: record.HeaderTimeout, ends: true, as: record.Reset},
	{name: "the connect completes", plans: []plan{connectLater}, begin: openHeader,
		arrives: func(r *rig, f *file) { r.finishDial(0) }, outcome: record.ConnectTimeout},
	{name: "the connect is refused", plans: []plan{{waits: -1, result: unix.ECONNREFUSED}}, begin: openHeader,
		arrives: func(r *rig, f *file) { r.finishDial(0) }, outcome: record.ConnectTimeout, ends: true, as: record.BackendRefused},
	{name: "the plain connect of a diagnosis completes", setting: setTransparent,
		plans: []plan{connectLater}, begin: func(r *rig) *file {
			f := r.open(header)
			r.advance(7*time.Second + 4*time.Duration(tick)) // the connect and that of a test client time out
			if len(r.dials) != 3 {
				r.Fatalf("%d connects, want 3", len(r.dials))
			}
			return f
		},
		arrives: func(r *rig, f *file) { r.finishDial(2) }, outcome: record.ConnectTimeout, ends: true, as: record.NoReturnPath},
	{name: "the client sends", setting: idleTimeout, begin: openHeader,
		arrives: func(r *rig, f *file) { f.deliver([]byte("x")) }, outcome: record.IdleTimeout},
	{name: "the backend sends", setting: idleTimeout, begin: openHeader,
		arrives: func(r *rig, f *file) { r.backend().deliver([]byte("x")) }, outcome: record.IdleTimeout},
	{name: "the client sends a FIN", setting: idleTimeout, begin: openHeader,
		arrives: func(r *rig, f *file) { f.sendFIN() }, outcome: record.IdleTimeout},
	{name: "the backend takes more", setting: idleTimeout, begin: func(r *rig) *file {
		f := r.open(header + string(make([]byte, 200<<10)))
		r.settle()
		return f
	}, arrives: func(r *rig, f *file) { r.backend().consume(64 << 10) }, outcome: record.IdleTimeout},
	{name: "both sides finish before the cut", begin: openHeader, arrives: func(r *rig, f *file) {
		f.deliver([]byte("last"))
		f.sendFIN()
		r.backend().deliver([]byte("words"))
		r.backend().sendFIN()
	}, outcome: record.Drained, ends: true, as: record.OK},
}

func idleTimeout(f *forward.Forward) { f.IdleTimeout = 20 * time.Second }

// What arrives while the process is stopped counts before the deadlines that pass meanwhile,
// wherever it is stopped.
func TestArrivedDataCountsBeforeDeadlines(t *testing.T) {
	for _, row := range pauses {
		for _, late := range []bool{false, true} {
			for _, arrives := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, late %v, arrives %v", row.name, late, arrives), func(t *testing.T) {
					row.run(t, late, arrives)
				})
			}
		}
	}
}

func (row *pauseCase) run(t *testing.T, late, arrives bool) {
	f := plainForward(serverA)
	if row.setting != nil {
		row.setting(f)
	}
	r := newForwardRig(t, f)
	r.plans[serverA] = row.plans
	conn := row.begin(r)
	r.stopLate = late
	r.stopped = func() {
		r.clock += int64(time.Minute)
		if arrives {
			row.arrives(r, conn)
		}
		if row.outcome == record.Drained {
			r.engine.Cut()
		}
	}
	r.settle()
	ends, as := row.ends, row.as
	if !arrives {
		ends, as = true, row.outcome
	}
	switch {
	case ends && (len(r.records) != 1 || r.records[0].Outcome != as):
		t.Errorf("%+v, want %v", r.records, as)
	case !ends && len(r.records) != 0:
		t.Errorf("ended %v", r.records[0].Outcome)
	case !ends:
		r.advance(4 * time.Second) // its timeout starts again
		if len(r.records) != 0 {
			t.Errorf("ended %v soon after", r.records[0].Outcome)
		}
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// The same if more connections are readable than one wait returns.
func TestArrivedDataCountsInACrowd(t *testing.T) {
	for _, room := range []int{64, maxEvents} {
		r := newForwardRig(t, plainForward(serverA))
		r.events = r.events[:room]
		const crowd = 2*maxEvents + 10
		all := r.burst(crowd, "")
		r.stopped = func() {
			r.clock += int64(time.Minute)
			for _, f := range all {
				f.deliver([]byte(header))
			}
		}
		r.settle()
		if len(r.dials) != crowd || len(r.records) != 0 {
			t.Errorf("%d of %d were served, %d ended", len(r.dials), crowd, len(r.records))
		}
		r.engine.Cut()
		r.settle()
		r.expectClean()
	}
}

// A connection that is reset before the deadline for its header does not end by that deadline, whatever
// the loops have done by then: it may wait to be accepted, for another loop, or for its next read, among
// many others. The control is one that is not reset.
func TestResetBeforeDeadlineIsNoTimeout(t *testing.T) {
	for seed := range uint64(300) {
		k := newScript(t, seed+1)
		k.noBatches = seed%4 == 3
		r := newRig(t, k, Config{Loops: 1 + int(seed%3), Forwards: []*forward.Forward{plainForward(serverA)}})
		silent := r.arrive(r.listenerSocket(0), lb)
		all := make([]*file, 1+k.random.IntN(40))
		for i := range all {
			all[i] = r.arrive(r.listenerSocket(0), lb)
			for sent := 0; k.random.IntN(3) > 0 && sent < 30; sent += 10 {
				all[i].deliver([]byte(header[sent:][:10]))
				for range k.random.IntN(3) {
					r.turn()
				}
			}
		}
		r.stopLate = k.random.IntN(2) == 0
		r.stopped = func() {
			for _, f := range all {
				f.reset()
			}
			r.clock += int64(time.Minute)
		}
		r.settle()
		r.advance(5*time.Second + 2*time.Duration(tick))
		outcomes := map[record.Outcome]int{}
		for _, c := range r.records {
			outcomes[c.Outcome]++
		}
		if n := outcomes[record.Empty] + outcomes[record.Reset]; n != len(all) || outcomes[record.HeaderTimeout] != 1 ||
			!silent.gotRST {
			t.Errorf("seed %d: %d of %d were reset: %v", seed, n, len(all), outcomes)
		}
		r.expectClean()
	}
}

// Deadlines are handled even if every wait returns as many events as it can.
func TestCrowdDoesNotDelayDeadlinesForEver(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	silent := r.open("")
	busy := r.open(header)
	r.events = r.events[:1]
	r.clock += int64(time.Minute)
	for range 3 * maxCrowded {
		busy.deliver([]byte("x"))
		r.loop().turn(r.events)
	}
	if !silent.gotRST {
		t.Error("the deadline for the header was not handled")
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}
