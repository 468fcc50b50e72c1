package engine

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// event is what can happen to a session.
type event string

// events are all of them. The sockets are those of the session.
var events = map[event]func(r *rig, front *file){
	"peer sends":          func(_ *rig, f *file) { f.deliver([]byte(header[20:])) },
	"peer FIN":            func(_ *rig, f *file) { f.sendFIN() },
	"peer RST":            func(_ *rig, f *file) { f.reset() },
	"backend accepts":     answer(0),
	"backend refuses":     answer(unix.ECONNREFUSED),
	"backend unreachable": answer(unix.EHOSTUNREACH),
	"backend sends":       func(r *rig, _ *file) { r.backend().deliver([]byte("x")) },
	"backend FIN":         func(r *rig, _ *file) { r.backend().sendFIN() },
	"backend RST":         func(r *rig, _ *file) { r.backend().reset() },
	"deadline":            func(r *rig, _ *file) { r.passDeadline() },
	"drain ends":          func(r *rig, _ *file) { r.engine.Cut() },
	"operator resets": func(r *rig, _ *file) {
		for s := range r.loop().sessions.live() {
			s.resetByOperator(r.loop())
		}
	},
}

// answer completes the last connect.
func answer(result unix.Errno) func(*rig, *file) {
	return func(r *rig, _ *file) {
		far := r.backend()
		far.plan.result = result
		far.finishConnect()
	}
}

// passDeadline moves the clock until a deadline has changed the state. The loop wakes up more often than
// that, to move timers within the wheel.
func (r *rig) passDeadline() {
	for before, n := r.currentState(), 0; n < 64 && r.currentState() == before; n++ {
		if left := r.loop().untilDeadline(); left >= 0 {
			r.clock += int64(left) + 1
		}
		r.settle()
	}
}

// transition is what follows from an event: the next state or, if that is free, the outcome. never says
// why the event cannot happen in this state.
type transition struct {
	next    state
	outcome record.Outcome
	never   string
}

func stays(s state) transition           { return transition{next: s} }
func becomes(s state) transition         { return transition{next: s} }
func endsAs(o record.Outcome) transition { return transition{outcome: o} }
func cannot(reason string) transition    { return transition{never: reason} }

const (
	noBackend  = "no backend is dialled"
	noPeer     = "the peer was reset before the diagnosis"
	noData     = "the backend is not connected"
	isAnswered = "the backend has accepted"
)

// transitions is the state machine of a session. The session is in transparent mode, has one backend and an
// idle timeout.
var transitions = map[state]map[event]transition{
	reading: {
		"peer sends": becomes(dialling), "peer FIN": endsAs(record.Truncated), "peer RST": endsAs(record.Reset),
		"backend accepts": cannot(noBackend), "backend refuses": cannot(noBackend), "backend unreachable": cannot(noBackend),
		"backend sends": cannot(noBackend), "backend FIN": cannot(noBackend), "backend RST": cannot(noBackend),
		"deadline": endsAs(record.HeaderTimeout), "drain ends": endsAs(record.Drained),
		"operator resets": endsAs(record.Reset),
	},
	closing: {
		"peer sends": stays(closing), "peer FIN": endsAs(record.Empty), "peer RST": endsAs(record.Empty),
		"backend accepts": cannot(noBackend), "backend refuses": cannot(noBackend), "backend unreachable": cannot(noBackend),
		"backend sends": cannot(noBackend), "backend FIN": cannot(noBackend), "backend RST": cannot(noBackend),
		"deadline": endsAs(record.Empty), "drain ends": endsAs(record.Drained), "operator resets": endsAs(record.Reset),
	},
	dialling: {
		"peer sends": stays(dialling), "peer FIN": stays(dialling), "peer RST": endsAs(record.Reset),
		"backend accepts": becomes(relaying), "backend refuses": endsAs(record.BackendRefused),
		"backend unreachable": endsAs(record.BackendUnreachable),
		"backend sends":       cannot(noData), "backend FIN": cannot(noData), "backend RST": cannot("it is a refusal"),
		"deadline": becomes(probing), "drain ends": endsAs(record.Drained), "operator resets": endsAs(record.Reset),
	},
	probing: {
		"peer sends": cannot(noPeer), "peer FIN": cannot(noPeer), "peer RST": cannot(noPeer),
		"backend accepts": endsAs(record.ConnectTimeout), "backend refuses": endsAs(record.ConnectTimeout),
		"backend unreachable": becomes(diagnosing),
		"backend sends":       cannot(noData), "backend FIN": cannot(noData), "backend RST": cannot("it is a refusal"),
		"deadline": becomes(diagnosing), "drain ends": endsAs(record.Drained), "operator resets": endsAs(record.Reset),
	},
	diagnosing: {
		"peer sends": cannot(noPeer), "peer FIN": cannot(noPeer), "peer RST": cannot(noPeer),
		"backend accepts": endsAs(record.NoReturnPath), "backend refuses": endsAs(record.ConnectTimeout),
		"backend unreachable": endsAs(record.ConnectTimeout),
		"backend sends":       cannot(noData), "backend FIN": cannot(noData), "backend RST": cannot("it is a refusal"),
		"deadline": endsAs(record.ConnectTimeout), "drain ends": endsAs(record.Drained),
		"operator resets": endsAs(record.Reset),
	},
	relaying: {
		"peer sends": stays(relaying), "peer FIN": stays(relaying), "peer RST": endsAs(record.Reset),
		"backend accepts": cannot(isAnswered), "backend refuses": cannot(isAnswered),
		"backend unreachable": cannot(isAnswered),
		"backend sends":       stays(relaying), "backend FIN": stays(relaying), "backend RST": endsAs(record.Reset),
		"deadline": endsAs(record.IdleTimeout), "drain ends": endsAs(record.Drained),
		"operator resets": endsAs(record.Reset),
	},
}

// inState brings a session into a state.
func inState(t *testing.T, want state) (*rig, *file) {
	t.Helper()
	f := transparently(plainForward(serverA))
	f.IdleTimeout = time.Minute
	sends, to := header, []plan{connectLater}
	switch want {
	case reading:
		sends = header[:20]
	case closing:
		f.Health, sends = only(lb), "GET / HTTP/1.0\r\n\r\n"
	case relaying:
		to = []plan{{}}
	}
	r := newForwardRig(t, f)
	r.plans[serverA] = to
	front := r.open(sends)
	for range 4 {
		if r.currentState() == want {
			return r, front
		}
		r.passDeadline()
		r.settle()
	}
	t.Fatalf("the session is in state %v, want %v", r.currentState(), want)
	return nil, nil
}

// currentState returns the state of the only session; free if it has ended.
func (r *rig) currentState() state {
	for s := range r.loop().sessions.live() {
		return s.state
	}
	return free
}

// The state machine does what the table says, for each event in each state. A state or an event that is
// not in the table fails the test.
func TestTransitions(t *testing.T) {
	for s := reading; s <= relaying; s++ {
		for name, happens := range events {
			want, ok := transitions[s][name]
			switch {
			case !ok:
				t.Errorf("state %d: the table does not say what follows from %q", s, name)
				continue
			case want.never != "":
				continue
			}
			r, front := inState(t, s)
			happens(r, front)
			r.settle()
			if got := r.currentState(); got != want.next {
				t.Errorf("state %d, %s: the next state is %d, want %d (%+v)", s, name, got, want.next, r.records)
				continue
			}
			if want.next == free && (len(r.records) != 1 || r.records[0].Outcome != want.outcome) {
				t.Errorf("state %d, %s: ended as %+v, want %v", s, name, r.records, want.outcome)
			}
			r.engine.Cut()
			r.settle()
			r.expectClean()
		}
	}
	if states := int(relaying) - int(free); len(transitions) != states {
		t.Errorf("the table has %d states, want %d", len(transitions), states)
	}
}
