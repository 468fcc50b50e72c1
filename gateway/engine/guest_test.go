package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/forward"

	"golang.org/x/sys/unix"
)

// recordingGuest records the calls of its methods.
type recordingGuest struct {
	Host
	routes []*Route
	calls  []string
}

func (v *recordingGuest) record(format string, args ...any) {
	v.calls = append(v.calls, fmt.Sprintf(format, args...))
}

func (v *recordingGuest) Start()                          { v.record("start") }
func (v *recordingGuest) Event(key uint64, events uint32) { v.record("event %#x %#x", key, events) }
func (v *recordingGuest) Alarm()                          { v.record("alarm") }
func (v *recordingGuest) Rest()                           { v.record("rest") }
func (v *recordingGuest) StopAccepting()                  { v.record("stop") }
func (v *recordingGuest) Cut()                            { v.record("cut") }
func (v *recordingGuest) Close()                          { v.record("close") }

// takeCalls returns the calls since the last takeCalls, except Rest.
func (v *recordingGuest) takeCalls() string {
	var all []string
	for _, text := range v.calls {
		if text != "rest" {
			all = append(all, text)
		}
	}
	v.calls = nil
	return strings.Join(all, ", ")
}

// withGuests is a rig with one stream and one datagram forward.
func withGuests(t testing.TB, loops int) (*rig, []*recordingGuest) {
	t.Helper()
	datagrams := plainForward(serverA)
	datagrams.Datagrams = true
	var guests []*recordingGuest
	newGuest := func(h Host, routes []*Route) (Guest, error) {
		guests = append(guests, &recordingGuest{Host: h, routes: routes})
		return guests[len(guests)-1], nil
	}
	forwards := []*forward.Forward{datagrams, plainForward(serverA)}
	r := newRig(t, newScript(t, 0), Config{Loops: loops, Forwards: forwards, Guest: newGuest})
	return r, guests
}

// A guest's descriptors and deadline are served beside the sessions, and its events reach only the
// guest.
func TestGuest(t *testing.T) {
	r, guests := withGuests(t, 2)
	if len(guests) != 2 || guests[1].Index() != 1 || guests[0].Loops() != 2 {
		t.Fatalf("%d guests", len(guests))
	}
	g := guests[0]
	if len(g.routes) != 1 || !g.routes[0].Forward.Datagrams || len(r.engine.Bound()) != 1 {
		t.Errorf("%d routes, %d listeners of the engine's own", len(g.routes), len(r.engine.Bound()))
	}
	for _, key := range []uint64{1, 1<<30 | 5, MaxKey} {
		f := r.create(eventfd)
		if errno := g.Watch(f.fd, unix.EPOLLIN, key); errno != 0 {
			t.Fatal(errno)
		}
		f.count++
		f.wake(unix.EPOLLIN)
		r.turn()
		if got, want := g.takeCalls(), fmt.Sprintf("event %#x 0x1", key); got != want {
			t.Errorf("calls %q, want %q", got, want)
		}
		r.Close(f.fd)
	}
	g.alarmIn(r, 3*time.Second)
	r.advance(2 * time.Second)
	if got := g.takeCalls(); got != "" {
		t.Errorf("calls %q before the deadline", got)
	}
	r.advance(2 * time.Second)
	if got := g.takeCalls(); got != "alarm" {
		t.Errorf("calls %q, want alarm", got)
	}
	g.alarmIn(r, time.Second)
	g.Host.Alarm(0)
	r.advance(2 * time.Second)
	g.Call(func() { g.record("called at %v", g.Now() == r.clock) })
	r.settle()
	if got := g.takeCalls(); got != "called at true" {
		t.Errorf("calls %q, want a call and no alarm", got)
	}
	r.turn()
	if len(g.calls) != 1 || g.calls[0] != "rest" {
		t.Errorf("calls %q at the end of a turn, want rest", g.calls)
	}
	if a, b := g.NextID(), guests[1].NextID(); a == b || a == g.NextID() {
		t.Errorf("ids %d and %d", a, b)
	}

	r.open(header)
	r.backend()
	if got := g.takeCalls(); got != "" {
		t.Errorf("calls %q for a session", got)
	}
}

func (v *recordingGuest) alarmIn(r *rig, d time.Duration) { v.Host.Alarm(r.clock + int64(d)) }

// The drain ends only when the guest holds nothing.
func TestGuestHoldDelaysIdle(t *testing.T) {
	r, guests := withGuests(t, 1)
	g := guests[0]
	f := g.routes[0].Forward
	g.Hold(f)
	g.Hold(f)
	g.Tally(f).Accepted += 2
	if all, err := r.engine.Tallies(r.Context()); err != nil || len(all) != 2 || all[0].Active != 2 ||
		all[0].Accepted != 2 || all[1].Active != 0 {
		t.Errorf("counted %+v, %v", all, err)
	}
	r.engine.StopAccepting()
	r.settle()
	if got := g.takeCalls(); got != "stop" {
		t.Errorf("calls %q, want stop", got)
	}
	r.engine.running.Wait()
	g.Release(f)
	if isClosed(r.engine.Idle()) {
		t.Error("idle while something is held")
	}
	g.Release(f)
	if !isClosed(r.engine.Idle()) {
		t.Error("not idle when nothing is held")
	}
	r.engine.Cut()
	r.settle()
	if got := g.takeCalls(); got != "cut" {
		t.Errorf("calls %q, want cut", got)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// If one guest cannot be created, the others are closed and nothing stays open.
func TestGuestFails(t *testing.T) {
	datagrams := plainForward(serverA)
	datagrams.Datagrams = true
	k := newScript(t, 0)
	var first *recordingGuest
	refusal := errors.New("no room")
	newGuest := func(h Host, routes []*Route) (Guest, error) {
		if h.Index() > 0 {
			return nil, refusal
		}
		first = &recordingGuest{}
		return first, nil
	}
	forwards := []*forward.Forward{plainForward(serverA), datagrams}
	_, err := New(Config{Kernel: k, Loops: 2, Forwards: forwards, Guest: newGuest})
	if !errors.Is(err, refusal) || first.takeCalls() != "close" {
		t.Errorf("error %v; calls %q", err, first.calls)
	}
	if n := k.leaked(listening, epoll, eventfd); n != 0 {
		t.Errorf("%d descriptors are open", n)
	}
}

// Without a datagram forward no guest is created.
func TestNoGuestWithoutDatagrams(t *testing.T) {
	newGuest := func(Host, []*Route) (Guest, error) {
		t.Error("a guest was created")
		return nil, nil
	}
	newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{plainForward(serverA)}, Guest: newGuest})
}
