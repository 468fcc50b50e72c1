package engine

import (
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/gateway/source"
)

const (
	// bufferSize is the size of one read. All sessions of a loop share the buffer, so a larger one
	// costs nothing while they are idle. Half the size slows a bulk stream down considerably.
	bufferSize = 256 << 10
	maxEvents  = 512 // per wait
	maxCrowded = 256 // see noteWait
)

// loop is one event loop: a goroutine locked to its thread, which owns an epoll instance and its
// sessions. Other goroutines touch only the mailbox and the atomic fields.
type loop struct {
	engine *Engine
	kernel kernel.Kernel
	index  int
	poller int
	waker  int

	now          int64 // the kernel's clock after the last wait
	settled      int64 // all events from before this time have been handled
	crowdedSince int64 // settled, once the events of the last waits have been handled
	crowded      int   // waits in a row that returned as many events as they could
	spinUntil    int64 // the loop does not sleep before this time, see Config.Spin
	lastEvents   int   // returned by the last wait
	wheel        *wheel
	buffer       []byte // for reads; what was read is written from it
	pipes        pipePool
	flows        flowPool
	io           ioBatch
	runQueue     []*session // sessions that used up their budget
	resuming     []*session // the run queue that resume works on; reused as the next one

	sessions    sessionPool
	lastRelease int64        // when a session ended last
	active      atomic.Int64 // sessions of this loop, including those in its mailbox
	issued      uint64       // ids issued so far

	waiting waitQueue

	listeners  []*listener // this loop accepts from them
	pauseTimer timer       // ends a pause
	paused     bool        // accepting is paused and pauseTimer is armed
	closeTimer timer       // ends the graceful close of the listeners
	closeDone  []func()    // called when the listeners are closed
	shortage   bool        // accept_paused was reported, accept_resumed was not
	lastNotice int64       // when accept_paused was reported last

	diagnoses  map[netip.AddrPort]diagnosis
	candidates []forward.Endpoint // reused by targets
	report     record.Connection  // reused for each record

	guest      Guest // nil if there is none
	guestTimer timer // set by Host.Alarm

	tallies []*record.Tally // by forwardState.index
	sources []*source.Pool  // by forwardState.index

	mail     mailbox
	received []acceptedConn // the connections of the last readMail; its memory is reused
	cutting  bool           // set by a call: cut all sessions once their events have been handled
	quit     bool           // set by a call to end run
}

func newLoop(e *Engine, index int) (*loop, error) {
	l := &loop{
		engine: e, kernel: e.kernel, index: index,
		buffer: make([]byte, bufferSize), diagnoses: map[netip.AddrPort]diagnosis{},
	}
	l.now = l.kernel.Now()
	l.settled = l.now
	l.wheel = newWheel(l.now)
	l.pipes.kernel = l.kernel
	l.flows.init()
	loops := max(1, e.config.Loops)
	if e.config.MaxWaiting > 0 {
		l.waiting.limit = (e.config.MaxWaiting + loops - 1) / loops
	}
	if e.config.MaxPipes > 0 {
		l.pipes.limit = max(1, e.config.MaxPipes/loops)
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

// run serves until a call sets quit. Then it resets the remaining sessions.
func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]unix.EpollEvent, maxEvents)
	for !l.quit {
		l.turn(events)
	}
	for l.cutting = true; l.cutting; {
		l.turn(events)
	}
	if l.guest != nil {
		l.guest.Close()
	}
	l.pipes.close()
}

// turn waits for events once and handles them, then the deadlines. The events come first because a
// deadline may close a socket whose descriptor a new socket reuses: an event of the old one that is
// handled later would reach the new one.
func (l *loop) turn(events []unix.EpollEvent) {
	n := l.wait(events)
	l.wheel.skip(l.now)
	for i := range n {
		l.dispatch(events[i].Events, tag(kernel.Tag(&events[i])))
	}
	l.submitIO()
	l.fireDeadlines()
	l.readTails()
	if l.mail.unread.Load() {
		l.readMail()
	}
	l.resume()
	if l.guest != nil {
		l.guest.Rest()
	}
}

// fireDeadlines handles the deadlines up to the time from before which all events have been handled;
// for those of sessions and guests, that is the present. The loop's own time may be much later, if
// the process was stopped or another one had the CPU. Data that arrived meanwhile counts before a
// deadline that passed.
//
// A cut of all sessions is such a deadline, too.
func (l *loop) fireDeadlines() {
	l.wheel.advance(l.settled, l.fire)
	if l.cutting && l.crowded == 0 {
		l.cutting = false
		l.cutAll()
	}
}

// noteWait updates settled after a wait that began at a time and returned n of at most room events.
// If it returned as many as it could, there may be more. The kernel returns ready descriptors in
// turn, so after maxCrowded waits those of the first one have been returned.
func (l *loop) noteWait(began int64, n, room int) {
	if n < room {
		l.settled, l.crowded = began, 0
		return
	}
	if l.crowded == 0 {
		l.crowdedSince = began
	}
	if l.crowded++; l.crowded > maxCrowded {
		l.settled, l.crowded = l.crowdedSince, 0
	}
}

// wait collects events. If there are none, it sleeps until one comes or a deadline is due. It does
// not sleep if work is left, or if the last event was less than [Config.Spin] ago: then it returns
// at once, and the loop makes another turn, with deadlines and mailbox.
//
// A spinning loop neither blocks nor yields. The Go runtime can stop it at the system call of each
// turn for the garbage collector, or after 10 ms for another goroutine.
//
// A wait without a timeout is cheaper because it does not involve the scheduler. After a turn with
// several events, wait tries that first. After other turns it would rarely find any.
func (l *loop) wait(events []unix.EpollEvent) int {
	timeout, began := time.Duration(0), l.now
	if len(l.runQueue) == 0 && !l.mail.unread.Load() && !l.cutting && l.now >= l.spinUntil {
		timeout = l.untilDeadline()
	}
	n := 0
	if timeout == 0 || l.lastEvents > 1 {
		n = l.kernel.Wait(l.poller, events, 0)
	}
	if n == 0 && timeout != 0 {
		n = l.kernel.Wait(l.poller, events, timeout)
	}
	l.now = l.kernel.Now()
	l.noteWait(began, n, len(events))
	if n > 0 {
		l.spinUntil = l.now + int64(l.engine.config.Spin)
	}
	l.lastEvents = n
	return n
}

// untilDeadline returns how long the loop may sleep; a negative duration if there is no deadline.
func (l *loop) untilDeadline() time.Duration {
	left := time.Duration(noDeadline)
	if ms := l.wheel.wait(l.now); ms != noDeadline {
		left = time.Duration(ms) * time.Millisecond
	}
	if f := l.flows.first(); f != nil {
		tail := time.Duration(max(0, f.due-l.now))
		if left < 0 || tail < left {
			left = tail
		}
	}
	return left
}

// dispatch passes an event to the owner of its descriptor. The generation in the reference tells
// whether a session has ended since, earlier in the same batch of events, and whether its slot
// belongs to another connection now.
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

// fire handles an expired timer.
func (l *loop) fire(t *timer) {
	now := l.now
	switch {
	case t == &l.pauseTimer:
		l.retryAccept()
	case t == &l.closeTimer:
		l.closeListeners()
	case t == &l.waiting.timer:
		l.makeRoom(minSilence)
	case t == &l.guestTimer:
		l.now = l.settled
		l.guest.Alarm()
	default:
		l.now = l.settled
		t.session.handleTimeout(l)
	}
	l.now = now
}

// requeue puts s on the run queue. s has used up its budget, and edge-triggered descriptors raise
// no further event for data that is already there.
func (l *loop) requeue(s *session) {
	if !s.queued {
		s.queued = true
		l.runQueue = append(l.runQueue, s)
	}
}

// resume runs each session of the run queue once.
func (l *loop) resume() {
	l.runQueue, l.resuming = l.resuming[:0], l.runQueue
	for _, s := range l.resuming {
		if s.queued {
			s.queued = false
			s.resume(l)
		}
	}
}

// newSession takes a session from the pool for a connection.
func (l *loop) newSession(a acceptedConn) *session {
	s := l.sessions.take()
	s.start(a, l.nextID(), l.now)
	s.tally = l.tallies[a.listener.forward.index]
	return s
}

// nextID returns an id that is unique among all loops.
func (l *loop) nextID() uint64 {
	l.issued++
	return l.issued*uint64(len(l.engine.loops)) + uint64(l.index)
}

// retire returns a finished session to the pool.
func (l *loop) retire(s *session) {
	l.lastRelease = l.now
	l.active.Add(-1)
	l.engine.connectionClosed(s.listener.forward)
	l.sessions.put(s)
}

// watchSide registers a session's socket with epoll, edge-triggered. It is called once for each
// socket.
func (l *loop) watchSide(s *session, side int, events uint32) syscall.Errno {
	return l.kernel.Watch(l.poller, int(s.sides[side].fd), events, uint64(s.tag(side)))
}

// watchWrites adds EPOLLOUT to a socket that was registered without it.
func (l *loop) watchWrites(s *session, side int) syscall.Errno {
	d := &s.sides[side]
	if d.watchesWrites {
		return 0
	}
	d.watchesWrites = true
	return l.rewatch(s, side)
}

// close closes the I/O batch, epoll and the mailbox. The loop must have ended.
func (l *loop) close() {
	l.io.close()
	l.mail.Lock()
	defer l.mail.Unlock()
	l.mail.closed = true
	l.kernel.Close(l.poller)
	l.kernel.Close(l.waker)
}
