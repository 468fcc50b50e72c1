package engine

import (
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// Guest is what a loop serves beside its sessions, on descriptors of its own: the datagrams. There
// is one per loop, and only that loop calls its methods.
type Guest interface {
	// Start starts to serve.
	Start()
	// Event handles an event of the descriptor that was registered with key. The guest may have
	// closed that descriptor since, and must check.
	Event(key uint64, events uint32)
	// Alarm handles the deadline set with [Host.Alarm].
	Alarm()
	// Rest is called at the end of each turn of the loop: work that was deferred for batching must
	// be done now.
	Rest()
	// StopAccepting accepts no new flows; existing ones continue. It may be called more than once.
	StopAccepting()
	// Cut ends the existing flows.
	Cut()
	// Close ends everything and closes all descriptors. It is the last call, and may come without
	// Start.
	Close()
}

// Host is an event loop as its guest sees it. Only the loop may call its methods, unless stated
// otherwise.
type Host interface {
	// Index is the loop's number, from 0.
	Index() int
	// Loops is the number of loops.
	Loops() int
	// Now is a time in nanoseconds. It is monotonic, and constant during a turn, except that in
	// [Guest.Alarm] it is the time from before which all events have been handled.
	Now() int64
	// Watch registers a descriptor with epoll for [Guest.Event]. Closing the descriptor removes it.
	// key is from 1 to [MaxKey].
	Watch(fd int, events uint32, key uint64) syscall.Errno
	// Unwatch removes a descriptor from epoll. It is needed before closing one that another process
	// has, too.
	Unwatch(fd int)
	// Alarm sets the guest's single deadline, on the clock of Now; 0 clears it.
	Alarm(at int64)
	// Call makes the loop run f soon. Any goroutine may call it.
	Call(f func())
	// NextID returns an id that is unique among all records.
	NextID() uint64
	// Hold counts an active flow of a forward, Release its end. [Engine.Idle] waits for the flows.
	Hold(*forward.Forward)
	Release(*forward.Forward)
	// Tally returns the loop's counters of a forward. The pointer does not change.
	Tally(*forward.Forward) *record.Tally
}

// MaxKey is the largest key of [Host.Watch]. The other two bits of an event's data are the kind.
const MaxKey = 1<<62 - 1

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

func (h host) Unwatch(fd int) { h.kernel.Unwatch(h.poller, fd) }

// createGuests creates one guest per loop if there are datagram forwards.
func (e *Engine) createGuests() error {
	var routes []*Route
	for _, f := range e.config.Forwards {
		if !f.Datagrams {
			continue
		}
		for i := range f.Listeners {
			routes = append(routes, newRoute(e.byForward[f], &f.Listeners[i], e.names))
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
