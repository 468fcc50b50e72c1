package engine

import (
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
)

const (
	// bufferSize is the room for one read. Twice the size costs nothing
	// while idle, because all sessions of a loop share it; half of it costs
	// a bulk stream much of its speed.
	bufferSize = 256 << 10
	maxEvents  = 512 // events of one wait
)

// loop is one event loop: a goroutine on a thread of its own, which owns an
// epoll instance and all its sessions outright. Only the mailbox and the
// atomics are touched by others.
type loop struct {
	engine *Engine
	kernel kernel.Kernel
	index  int
	poller int
	waker  int

	now          int64 // the kernel's clock at the last wake-up
	spinUntil    int64 // the time before which the loop does not sleep
	lastEvents   int   // events of the last turn
	wheel        *wheel
	buffer       []byte              // what is read and written at once
	spareBuffers []*[bufferSize]byte // buffers that blocked sessions gave back
	pipes        pipePool
	io           ioBatch
	runQueue     []*session // sessions that used up their budget
	resuming     []*session // the same, for the round after

	sessions    sessionPool
	lastRelease int64        // when a session ended last
	active      atomic.Int64 // sessions of this loop, with those on their way to it
	issued      uint64       // ids given so far

	waiting waitQueue // sessions without their header

	listeners  []*listener // those whose connections this loop accepts
	pauseTimer timer       // until accepting is tried again
	paused     bool        // pause is armed
	closeTimer timer       // until the listeners are closed
	closeDone  []func()    // to be called then
	shortage   bool        // accept_paused was told, accept_resumed was not
	lastNotice int64       // when accept_paused was told last

	diagnoses  map[netip.AddrPort]diagnosis
	candidates []forward.Endpoint
	report     record.Connection

	guest      Guest // nil for none
	guestTimer timer // the guest's

	tallies []*record.Tally // of each forward

	mail     mailbox
	received []acceptedConn // read from the mail last
	quit     bool
}

func newLoop(e *Engine, index int) (*loop, error) {
	l := &loop{engine: e, kernel: e.kernel, index: index, buffer: make([]byte, bufferSize), diagnoses: map[netip.AddrPort]diagnosis{}}
	l.now = l.kernel.Now()
	l.wheel = newWheel(l.now)
	l.pipes.kernel = l.kernel
	if loops := max(1, e.config.Loops); e.config.MaxWaiting > 0 {
		l.waiting.limit = (e.config.MaxWaiting + loops - 1) / loops
	}
	poller, errno := l.kernel.Poller()
	if errno != 0 {
		return nil, os.NewSyscallError("epoll_create1", errno)
	}
	l.poller = poller
	waker, errno := l.kernel.Waker()
	if errno != 0 {
		l.kernel.Close(poller)
		return nil, os.NewSyscallError("eventfd", errno)
	}
	l.waker = waker
	if errno := l.kernel.Watch(poller, waker, unix.EPOLLIN, uint64(newTag(tagOther, 0))); errno != 0 {
		l.kernel.Close(poller)
		l.kernel.Close(waker)
		return nil, os.NewSyscallError("epoll_ctl", errno)
	}
	l.io = newIOBatch(l.kernel)
	return l, nil
}

// run serves until a call sets quit.
func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]unix.EpollEvent, maxEvents)
	for !l.quit {
		l.turn(events)
	}
	for s := range l.sessions.live() {
		s.cut(l)
	}
	if l.guest != nil {
		l.guest.Close()
	}
	l.pipes.close()
}

// turn waits for events once and serves them, before the deadlines: one that
// closes a session's socket must not leave an event of it behind, which would be
// taken for one of the socket that came in its place.
func (l *loop) turn(events []unix.EpollEvent) {
	n := l.wait(events)
	l.wheel.skip(l.now)
	for i := range n {
		l.dispatch(events[i].Events, tag(kernel.Tag(&events[i])))
	}
	l.submitIO()
	l.wheel.advance(l.now, l.fire)
	if l.mail.unread.Load() {
		l.readMail()
	}
	l.resume()
	if l.guest != nil {
		l.guest.Rest()
	}
}

// wait collects the events that there are. When there are none it sleeps until
// one comes or a deadline is due, unless there is work left, or the last event
// was less than [Config.Spin] ago: then it returns, and the loop comes round.
//
// A loop that spins thus makes a whole turn for each look, and deadlines and the
// mailbox are served as ever. It neither blocks nor yields: each turn is a
// call, at which the Go runtime can stop it for the garbage collector or, after
// 10 ms, for another goroutine.
//
// A look that does not sleep is cheaper, for it keeps the scheduler out of it. It
// comes first after a turn that found several events: after others it would
// mostly find none.
func (l *loop) wait(events []unix.EpollEvent) int {
	timeout := 0
	if len(l.runQueue) == 0 && !l.mail.unread.Load() && l.now >= l.spinUntil {
		timeout = l.wheel.wait(l.now)
	}
	n := 0
	if timeout == 0 || l.lastEvents > 1 {
		n = l.kernel.Wait(l.poller, events, 0)
	}
	if n == 0 && timeout != 0 {
		n = l.kernel.Wait(l.poller, events, timeout)
	}
	l.now = l.kernel.Now()
	if n > 0 {
		l.spinUntil = l.now + int64(l.engine.config.Spin)
	}
	l.lastEvents = n
	return n
}

// dispatch hands one event to whom its tag names. A session that ended
// earlier in the same batch, or whose place another took, is told by its
// generation.
func (l *loop) dispatch(events uint32, t tag) {
	kind, key := t.split()
	switch kind {
	case tagPeer, tagBackend:
		if s := l.sessions.find(refOf(key)); s != nil {
			s.handleEvent(l, kind, events)
		}
	case tagListener:
		l.accept(l.listeners[key])
	case tagOther:
		if key == 0 {
			l.kernel.Woken(l.waker)
			return
		}
		l.guest.Event(key, events)
	}
}

// fire serves a deadline.
func (l *loop) fire(t *timer) {
	switch {
	case t == &l.pauseTimer:
		l.retryAccept()
	case t == &l.closeTimer:
		l.closeListeners()
	case t == &l.guestTimer:
		l.guest.Alarm()
	default:
		t.session.handleTimeout(l)
	}
}

// later puts s on the run queue: it has used up its budget, but its
// descriptors will raise no further edge for what is already there.
func (l *loop) requeue(s *session) {
	if !s.queued {
		s.queued = true
		l.runQueue = append(l.runQueue, s)
	}
}

// resume runs the sessions of the run queue once each.
func (l *loop) resume() {
	l.runQueue, l.resuming = l.resuming[:0], l.runQueue
	for _, s := range l.resuming {
		if s.queued {
			s.queued = false
			s.resume(l)
		}
	}
}

// open takes a session for a connection.
func (l *loop) newSession(a acceptedConn) *session {
	s := l.sessions.take()
	s.start(a, l.nextID(), l.now)
	s.tally = l.tallies[a.listener.forward.index]
	return s
}

// nextID returns a number that no other loop gives.
func (l *loop) nextID() uint64 {
	l.issued++
	return l.issued*uint64(len(l.engine.loops)) + uint64(l.index)
}

// release gives a finished session back.
func (l *loop) release(s *session) {
	l.lastRelease = l.now
	l.active.Add(-1)
	l.engine.connectionClosed(s.listener.forward)
	l.sessions.put(s)
}

// watch registers a session's descriptor, once, edge-triggered.
func (l *loop) watchSide(s *session, side int, events uint32) bool {
	return l.kernel.Watch(l.poller, int(s.sides[side].fd), events, uint64(s.tag(side))) == 0
}

// watchWrites adds EPOLLOUT to a descriptor that was registered without it.
func (l *loop) watchWrites(s *session, side int) {
	d := &s.sides[side]
	if d.watchesWrites {
		return
	}
	d.watchesWrites = true
	l.kernel.Rewatch(l.poller, int(d.fd), interest|unix.EPOLLOUT, uint64(s.tag(side)))
}

// close gives up what the loop waits and exchanges bytes with, once it has ended.
func (l *loop) close() {
	l.io.close()
	l.mail.Lock()
	defer l.mail.Unlock()
	l.mail.closed = true
	l.kernel.Close(l.poller)
	l.kernel.Close(l.waker)
}

// takeBuffer gives the loop's buffer away and takes another: how the bytes
// that a blocked reader did not take are kept without copying them.
func (l *loop) takeBuffer() *[bufferSize]byte {
	taken := (*[bufferSize]byte)(l.buffer)
	if last := len(l.spareBuffers) - 1; last >= 0 {
		l.buffer, l.spareBuffers = l.spareBuffers[last][:], l.spareBuffers[:last]
		return taken
	}
	l.buffer = make([]byte, bufferSize)
	return taken
}

// returnBuffer takes a buffer back.
func (l *loop) returnBuffer(b *[bufferSize]byte) {
	const keep = 16
	if len(l.spareBuffers) < keep {
		l.spareBuffers = append(l.spareBuffers, b)
	}
}
