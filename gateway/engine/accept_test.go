package engine

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// noticeEvents returns the events of the notices so far.
func (r *rig) noticeEvents() []string {
	var all []string
	for _, n := range r.notices {
		all = append(all, n.Event)
	}
	return all
}

// Without descriptors, accepting pauses and is retried. The operator is notified once, existing
// sessions continue, and no waiting connection is lost.
func TestAcceptPausesWithoutDescriptors(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		r := newForwardRig(t, plainForward(serverA))
		first := r.open(header)
		for range 75 {
			r.acceptErrors = append(r.acceptErrors, errno)
		}
		r.open(header)
		for i := range 70 {
			first.deliver([]byte("x"))
			r.settle()
			if len(r.dials[0].far.received) != i+1 {
				t.Fatal("the established session makes no progress")
			}
			if wait := r.lastTimeout; wait <= 0 || wait > acceptPause+10*time.Millisecond {
				t.Fatalf("the loop sleeps %v before it tries again", wait)
			}
			left := len(r.acceptErrors)
			r.advance(acceptPause + 10*time.Millisecond)
			if len(r.acceptErrors) < left-2 {
				t.Fatalf("%d attempts for one pause", left-len(r.acceptErrors))
			}
		}
		if got := r.noticeEvents(); !slices.Equal(got, []string{"accept_paused"}) {
			t.Errorf("%v: notices %v", errno, got)
		}
		for range 10 {
			r.advance(acceptPause + 10*time.Millisecond)
		}
		if got := r.noticeEvents(); !slices.Equal(got, []string{"accept_paused", "accept_resumed"}) {
			t.Errorf("%v: notices %v", errno, got)
		}
		if len(r.dials) != 2 {
			t.Errorf("%v: the connection that waited was not accepted", errno)
		}
		finishBothOf(r, first, 0)
		r.expectEnd(1, record.OK, record.Relay, record.Client)
	}
}

// A loop without listeners reports no pause when a dial lacks a descriptor: it would never report
// the end. The loop that accepts reports both.
func TestShortageOnLoopWithoutListeners(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Loops: 2, Forwards: []*forward.Forward{plainForward(serverA)}})
	r.open(header)
	r.limit = r.used + 1
	r.open(header)
	r.advance(time.Second)
	if n := r.engine.Counters().PerLoop[1]; n != 1 || len(r.dials) != 1 {
		t.Fatalf("the other loop has %d connections, %d backends were dialled; want 1 and 1", n, len(r.dials))
	}
	r.limit = 0
	r.advance(time.Second)
	if len(r.dials) != 2 || !slices.Equal(r.noticeEvents(), []string{"accept_paused", "accept_resumed"}) {
		t.Errorf("%d backends were dialled, notices %v", len(r.dials), r.noticeEvents())
	}
}

// A shortage that comes and goes is reported every five seconds at most.
func TestShortageReportsAreLimited(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	for range 20 {
		r.acceptErrors = []unix.Errno{unix.EMFILE}
		r.open("")
		r.advance(time.Second)
	}
	want := []string{}
	for range 4 {
		want = append(want, "accept_paused", "accept_resumed")
	}
	if got := r.noticeEvents(); !slices.Equal(got, want) {
		t.Errorf("notices %v, want %v", got, want)
	}
}

// An error of one connection does not delay the others (accept(2): pending network errors).
func TestAcceptErrorsOfOneConnection(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.acceptErrors = []unix.Errno{unix.ECONNABORTED, unix.EINTR, unix.ENETDOWN, unix.EPROTO, unix.EHOSTUNREACH,
		unix.EPERM}
	r.open(header)
	if len(r.dials) != 1 || len(r.notices) != 0 {
		t.Errorf("%d dials, notices %v", len(r.dials), r.noticeEvents())
	}
}

// A single error that says that the socket does not listen costs a pause: no connection is lost, and
// nothing is reported.
func TestOneOddErrorKeepsListener(t *testing.T) {
	for _, errno := range notListening {
		r := newForwardRig(t, withSecondListener(plainForward(serverA)))
		r.acceptErrors = []unix.Errno{errno}
		r.open(header)
		if len(r.dials) != 0 || r.lastTimeout > acceptPause+10*time.Millisecond {
			t.Fatalf("%v: %d dials, the loop sleeps %v", errno, len(r.dials), r.lastTimeout)
		}
		r.openFrom(1, lb, header) // the other listener does not pause
		if len(r.dials) != 1 {
			t.Errorf("%v: the other listener accepts nothing", errno)
		}
		r.advance(acceptPause + 10*time.Millisecond)
		if len(r.dials) != 2 || len(r.notices) != 0 {
			t.Errorf("%v: %d dials, notices %v", errno, len(r.dials), r.noticeEvents())
		}
		r.engine.Cut()
		r.settle()
		r.expectClean()
	}
}

// A listener that fails is reported once and tried again until it works, however long that takes.
func TestListenerFails(t *testing.T) {
	for _, errno := range notListening {
		r := newForwardRig(t, plainForward(serverA))
		first := r.open(header)
		const attempts = 100
		for range attempts {
			r.acceptErrors = append(r.acceptErrors, errno)
		}
		r.open(header)
		for len(r.acceptErrors) > 0 {
			before := len(r.acceptErrors)
			r.advance(acceptPause + 10*time.Millisecond)
			if now := len(r.acceptErrors); now < before-2 || now == before {
				t.Fatalf("%v: %d attempts for one pause", errno, before-now)
			}
		}
		n := r.notices
		if len(n) != 1 || n[0].Event != "accept_failed" || n[0].Forward != "front" || !errors.Is(n[0].Err, errno) ||
			n[0].Of != r.engine.forwards[0].Forward {
			t.Errorf("%v: notices %+v", errno, n)
		}
		r.advance(time.Second)
		if got := r.noticeEvents(); !slices.Equal(got, []string{"accept_failed", "accept_recovered"}) || len(r.dials) != 2 {
			t.Errorf("%v: notices %v, %d dials", errno, got, len(r.dials))
		}
		finishBothOf(r, first, 0)
		r.expectEnd(1, record.OK, record.Relay, record.Client)
		r.engine.Cut()
		r.settle()
		r.expectClean()
	}
}

// notListening are the errors of accept4(2) which say that the socket does not listen.
var notListening = []unix.Errno{unix.EINVAL, unix.EBADF, unix.ENOTSOCK}

// withSecondListener adds a second listener, "side", to f.
func withSecondListener(f *forward.Forward) *forward.Forward {
	f.Listeners = append(f.Listeners, forward.Listener{Name: "side",
		Endpoint: forward.Endpoint{Addr: netip.MustParseAddrPort("192.0.2.80:81")}, Backends: f.Listeners[0].Backends})
	return f
}

// At the limit, the listeners on all loops stop accepting. Each connection that ends admits the
// next, and none is lost.
func TestMaxConnections(t *testing.T) {
	rows := []struct {
		name string
		c    Config
	}{
		{"of the engine, one loop", Config{MaxConnections: 2, Forwards: []*forward.Forward{plainForward(serverA)}}},
		{"of the engine, two listeners on two loops",
			Config{MaxConnections: 2, Loops: 2,
				Forwards: []*forward.Forward{withSecondListener(plainForward(serverA))}}},
		{"of a forward", Config{Forwards: []*forward.Forward{plainForward(serverA)}}},
	}
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if i == 2 {
				row.c.Forwards[0].MaxConnections = 2
			}
			r := newRig(t, newScript(t, 0), row.c)
			var all []*file
			for n := range 10 {
				all = append(all, r.openFrom(n%len(r.engine.listeners), lb, header))
			}
			for ended := range all {
				// Listeners on different loops may exceed the limit by one each.
				active, slack := r.engine.Counters().Active, len(r.engine.loops)-1
				if want := min(2, 10-ended); active < want || active > want+slack {
					t.Fatalf("%d connections are active after %d ended", active, ended)
				}
				if r.lastTimeout == 0 {
					t.Fatal("the loop spins")
				}
				r.resetOneBackend()
			}
			if len(r.records) != 10 {
				t.Errorf("%d of 10 connections ended", len(r.records))
			}
			r.expectClean()
		})
	}
}

// resetOneBackend ends one connection by a RST from its backend.
func (r *rig) resetOneBackend() {
	for _, d := range r.dials {
		if !d.far.isOpen {
			continue
		}
		d.far.reset()
		r.settle()
		return
	}
}

// The limit of one forward does not affect another.
func TestLimitIsPerForward(t *testing.T) {
	narrow, other := plainForward(serverA), plainForward(serverB)
	narrow.MaxConnections = 1
	other.Listeners[0].Name = "other"
	r := newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{narrow, other}})
	r.openFrom(0, lb, header)
	waiting := r.openFrom(0, lb, header)
	for range 3 {
		r.openFrom(1, lb, header)
	}
	if r.engine.Counters().Active != 4 || waiting.read != 0 {
		t.Errorf("%d active", r.engine.Counters().Active)
	}
	// A connection that ends on the other forward admits none on this one.
	r.dials[1].far.reset()
	r.settle()
	if waiting.read != 0 || r.lastTimeout == 0 {
		t.Errorf("the limit was exceeded, or the loop spins")
	}
	r.dials[0].far.reset()
	r.settle()
	if waiting.unread() != 0 {
		t.Error("the waiting connection was not accepted")
	}
}

// A loop that paused for a shortage stays paused when a connection ends that another loop's
// listener waited for.
func TestLimitAndShortage(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{MaxConnections: 1, Loops: 2,
		Forwards: []*forward.Forward{withSecondListener(plainForward(serverA))}})
	r.openFrom(0, lb, header)
	waiting := r.openFrom(0, lb, header)
	r.openFrom(1, lb, header)
	r.acceptErrors = []unix.Errno{unix.EMFILE}
	r.resetOneBackend()
	if !r.loop().paused {
		t.Fatal("the first loop has not paused")
	}
	r.resetOneBackend()
	if waiting.read != 0 {
		t.Fatal("accepted during the pause")
	}
	r.advance(time.Second)
	if waiting.unread() != 0 {
		t.Error("the waiting connection was not accepted")
	}
	r.resetOneBackend()
	r.expectClean()
}

// A listener that cannot be registered again for lack of memory is retried.
func TestListenerWatchFails(t *testing.T) {
	f := plainForward(serverA)
	f.MaxConnections = 1
	r := newForwardRig(t, f)
	r.open(header)
	waiting := r.open(header)
	r.watchErrors = []unix.Errno{unix.ENOSPC, unix.ENOMEM}
	r.resetOneBackend()
	for range 3 {
		r.advance(acceptPause + 10*time.Millisecond)
	}
	if waiting.unread() != 0 {
		t.Error("the waiting connection was not accepted")
	}
	if len(r.notices) != 1 || r.notices[0].Event != "accept_paused" || !errors.Is(r.notices[0].Err, unix.ENOSPC) {
		t.Errorf("notices %+v", r.notices)
	}
	r.resetOneBackend()
	r.expectClean()
}

// Connections go to the loop with the fewest sessions, whichever loop accepts them.
func TestConnectionsSpreadOverLoops(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Loops: 4, Forwards: []*forward.Forward{plainForward(serverA)}})
	for range 64 {
		r.open(header)
	}
	for i, n := range r.engine.Counters().PerLoop {
		if n < 15 || n > 17 {
			t.Errorf("loop %d has %d of 64", i, n)
		}
	}
	if active, accepted := r.engine.Counters().Active, r.tally().Accepted; active != 64 || accepted != 64 {
		t.Errorf("%d active, %d accepted", active, accepted)
	}
	ids := map[uint64]bool{}
	r.engine.Cut()
	r.settle()
	for _, c := range r.records {
		ids[c.ID] = true
	}
	if len(ids) != 64 {
		t.Errorf("%d ids for 64 connections", len(ids))
	}
	r.expectClean()
}
