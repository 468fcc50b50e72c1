package engine

import (
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// Guest is work of another kind that a loop does beside its sessions, on
// descriptors of its own: the datagrams. There is one for each loop, and all of
// its methods are called by that loop.
type Guest interface {
	// Start begins to serve.
	Start()
	// Event serves a descriptor that was watched under key. It may be one
	// that the guest has closed since: that is for the guest to tell.
	Event(key uint64, events uint32)
	// Alarm serves the deadline that was set with [Host.Alarm].
	Alarm()
	// Rest comes at the end of each of the loop's turns: what was put off for
	// the sake of a batch is due.
	Rest()
	// StopAccepting takes nobody new in. What is there goes on. It may come
	// more than once.
	StopAccepting()
	// Cut ends what is there.
	Cut()
	// Close cuts what is there and closes everything. Nothing is called after
	// it, and Start need not have been called before.
	Close()
}

// Host is an event loop as its guest sees it. Unless it is said otherwise its
// methods may be called by the loop alone.
type Host interface {
	// Index is the loop's number, from 0.
	Index() int
	// Loops is how many there are.
	Loops() int
	// Now is a monotonic time in nanoseconds; it stands still during a turn.
	Now() int64
	// Watch registers a descriptor for [Guest.Event]. Closing it ends that.
	// key must be from 1 to [MaxKey].
	Watch(fd int, events uint32, key uint64) syscall.Errno
	// Alarm sets the guest's one deadline, in the time of Now; 0 sets none.
	Alarm(at int64)
	// Call has the loop run f soon. It may be called from any goroutine.
	Call(f func())
	// NextID returns a number for a record that no other record has.
	NextID() uint64
	// Hold counts something active for a forward whose end [Engine.Idle] has to
	// wait for, and Release counts it out again.
	Hold(*forward.Forward)
	Release(*forward.Forward)
	// Tally is what the loop counts of a forward. It stays the same.
	Tally(*forward.Forward) *record.Tally
}

// MaxKey is the largest key of [Host.Watch]: the low bits of an event's data
// are the loop's own.
const MaxKey = 1<<62 - 1

// host is the loop as its guest sees it.
type host struct{ *loop }

func (h host) Index() int     { return h.index }
func (h host) Loops() int     { return len(h.engine.loops) }
func (h host) Now() int64     { return h.now }
func (h host) Call(f func())  { h.call(f) }
func (h host) NextID() uint64 { return h.nextID() }

func (h host) Tally(f *forward.Forward) *record.Tally { return h.tallies[h.engine.byForward[f].index] }

func (h host) Hold(f *forward.Forward) {
	h.engine.guestActive.Add(1)
	h.engine.byForward[f].active.Add(1)
}

func (h host) Release(f *forward.Forward) {
	h.engine.byForward[f].active.Add(-1)
	h.engine.guestActive.Add(-1)
	if h.engine.closing.Load() {
		h.engine.checkIdle()
	}
}

func (h host) Alarm(at int64) {
	if at == 0 {
		h.wheel.disarm(&h.guestTimer)
		return
	}
	h.wheel.arm(&h.guestTimer, at)
}

func (h host) Watch(fd int, events uint32, key uint64) syscall.Errno {
	return h.kernel.Watch(h.poller, fd, events, uint64(newTag(tagOther, key)))
}

// invite makes the guests, one for each loop, if there is anything for them.
func (e *Engine) createGuests() error {
	var routes []*Route
	for _, f := range e.config.Forwards {
		if !f.Datagrams {
			continue
		}
		for i := range f.Listeners {
			routes = append(routes, newRoute(f, &f.Listeners[i], e.names))
		}
	}
	if len(routes) == 0 || e.config.Guest == nil {
		return nil
	}
	for _, l := range e.loops {
		guest, err := e.config.Guest(host{l}, routes)
		if err != nil {
			return err
		}
		l.guest = guest
	}
	return nil
}
