package engine

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

func (r *rig) isIdle() bool {
	select {
	case <-r.engine.Idle():
		return true
	default:
		return false
	}
}

// stopAccepting calls StopAccepting, turns the loops, and waits for the goroutine that it starts.
func (r *rig) stopAccepting() {
	r.engine.StopAccepting()
	r.settle()
	r.engine.running.Wait()
}

// Queued connections are accepted before the listener closes, which would reset them. Sessions
// continue, and Idle is closed after the last one.
func TestDrain(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Loops: 2,
		Forwards: []*forward.Forward{withSecondListener(plainForward(serverA))}})
	before := r.open(header)
	var waiting []*file
	for i := range 5 {
		f := r.arrive(r.listenerSocket(i%2), lb)
		f.deliver([]byte(header))
		waiting = append(waiting, f)
	}
	r.acceptErrors = []unix.Errno{unix.ECONNABORTED, unix.EINTR, unix.EPROTO}
	r.stopAccepting()
	if r.leaked(listening) != 0 || r.engine.Counters().Active != 6 || r.isIdle() {
		t.Fatalf("%d listeners, %d active, idle %v", r.leaked(listening), r.engine.Counters().Active, r.isIdle())
	}
	for _, f := range append(waiting, before) {
		if f.gotRST || f.unread() != 0 {
			t.Error("a connection was reset, or makes no progress")
		}
	}
	for range 6 {
		if r.isIdle() {
			t.Fatal("idle too early")
		}
		r.resetOneBackend()
	}
	if !r.isIdle() {
		t.Error("not idle after the last connection")
	}
	r.expectClean()
}

func TestDrainWithoutConnections(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Loops: 2, Forwards: []*forward.Forward{plainForward(serverA)}})
	r.stopAccepting()
	r.stopAccepting()
	if !r.isIdle() {
		t.Error("not idle")
	}
}

func TestCut(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.open("")
	from := r.open(header)
	from.deliver(randomBytes(1 << 20))
	r.settle()
	r.stopAccepting()
	r.engine.Cut()
	r.settle()
	for _, c := range r.records {
		if c.Outcome != record.Drained || c.By != record.Gateway {
			t.Errorf("ended %v by %v", c.Outcome, c.By)
		}
	}
	if len(r.records) != 2 || !r.isIdle() || !from.gotRST || !r.backend().gotRST {
		t.Errorf("%d connections ended, idle %v", len(r.records), r.isIdle())
	}
	r.expectClean()
}

// brokenKernel fails one call while the engine is created.
type brokenKernel struct {
	*script
	call string
}

func (k brokenKernel) Waker() (int, unix.Errno) {
	if k.call == "eventfd" {
		return -1, unix.EMFILE
	}
	return k.script.Waker()
}

func (k brokenKernel) Poller() (int, unix.Errno) {
	if k.call == "epoll_create1" {
		return -1, unix.EMFILE
	}
	return k.script.Poller()
}

func (k brokenKernel) Listen(fd, n int) unix.Errno {
	if k.call == "listen" {
		return unix.EADDRINUSE
	}
	return k.script.Listen(fd, n)
}

// New leaves nothing open after an error.
func TestNewFails(t *testing.T) {
	for _, call := range []string{"epoll_create1", "eventfd", "epoll_ctl", "socket", "setsockopt", "listen"} {
		k := newScript(t, 0)
		switch call {
		case "epoll_ctl":
			k.watchErrors = []unix.Errno{0, unix.ENOSPC}
		case "socket":
			k.limit = 4
		case "setsockopt":
			k.optionError = func(int, int) unix.Errno { return unix.ENOPROTOOPT }
		}
		_, err := New(Config{Kernel: brokenKernel{k, call}, Loops: 2,
			Forwards: []*forward.Forward{withSecondListener(plainForward(serverA))}})
		if err == nil || k.used != 0 || k.batches != 0 {
			t.Errorf("%s: %v, %d descriptors and %d batches are open", call, err, k.used, k.batches)
		}
		if e := (*ListenError)(nil); call == "listen" && (!errors.As(err, &e) || e.Name != "front" || e.Hint() == "") {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// The last connection may end on a loop that has closed its listeners while another loop still
// passes connections to it.
func TestDrainWaitsForAllLoops(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Loops: 2,
		Forwards: []*forward.Forward{withSecondListener(plainForward(serverA))}})
	r.arrive(r.listenerSocket(1), netip.AddrPortFrom(client4.Addr(), 1)) // not trusted: it ends at once
	r.engine.StopAccepting()
	r.engine.loops[0].turn(r.events)
	r.engine.loops[0].turn(r.events)
	if r.isIdle() {
		t.Error("idle while a listener is open")
	}
	r.settle()
	r.engine.running.Wait()
	if !r.isIdle() || len(r.records) != 1 {
		t.Errorf("idle %v, %d connections ended", r.isIdle(), len(r.records))
	}
	r.expectClean()
}
