package engine

import (
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"

	"golang.org/x/sys/unix"
)

// script is a kernel in memory. It behaves like Linux as far as the engine can tell: sockets whose
// remote ends the test controls (kernel_socket_test.go), pipes, epoll with edges and levels, and a
// clock that the test moves.
//
// It is not safe for concurrent use. Using or closing a closed descriptor fails the test.
type script struct {
	testing.TB
	random      *rand.Rand    // partial transfers, EINTR and shuffled events; nil: none
	clock       int64         // what Now returns
	step        int64         // added to clock by each Now
	lastTimeout time.Duration // of the last Wait
	stopped     func()        // called once: the process is stopped at the next Wait
	stopLate    bool          // after the events have been collected, rather than before (then EINTR)

	files   []*file // by descriptor
	used    int
	limit   int     // open descriptors; 0: unlimited
	recycle bool    // reuse closed files, so that nothing is allocated
	closed  []*file // to reuse

	plans   map[forward.Endpoint][]plan // for connects, in order; the last one repeats
	dials   []dial
	onDial  func(*file) // called for each connect
	pending []*file     // connecting

	eofCount int // ends of streams read so far

	shutdowns, splices int // numbers of calls

	acceptErrors   []syscall.Errno // what the next Accepts return
	shutdownErrors []syscall.Errno // what the next Shutdowns return
	filters        bool            // RefuseHandshakes is supported
	noBatches      bool            // io_setup(2) fails
	batches        int             // open ones
	pipeErrors     syscall.Errno   // what Pipe returns
	pipeRoom       int             // largest pipe; 0: unlimited
	spliceError    syscall.Errno   // what Splice from a socket returns, after goodSplices
	goodSplices    int
	drainErrors    int             // how many times Splice to a socket returns spliceError
	probed         bool            // spliceError was returned: an empty pipe may be spliced from
	watchErrors    []syscall.Errno // what the next Watches return; 0: no error
	sendRoom       int             // send buffer of new sockets
	noSource       bool            // HasSource is false
	programs       bool            // programs of package toa are attached
	bindError      func(netip.AddrPort) syscall.Errno
	optionError    func(level, name int) syscall.Errno
}

// plan is the result of one connect.
type plan struct {
	errno  syscall.Errno // of connect(2) itself
	result syscall.Errno // of the connection, if connect(2) is in progress
	waits  int           // Waits until the result arrives; -1: never
	// promises is whether the remote host promises to read the client, and late how often the programs
	// do not know it yet although the socket is connected.
	promises bool
	late     int
	source   netip.Addr // that connect(2) takes instead of the one that is bound; invalid: none
}

// dial is an attempt to connect.
type dial struct {
	to     forward.Endpoint
	source netip.AddrPort
	far    *file
}

type kind uint8

const (
	stream    kind = iota
	listening      // of a poller: files that may be ready; of a listener: the queue
	pipeRead
	pipeWrite
	epoll
	eventfd
)

// file is an open descriptor.
type file struct {
	kernel *script
	kind   kind
	fd     int
	isOpen bool

	poller *file // that watches it
	mask   uint32
	tag    uint64
	ready  bool // it is on poller's list

	list              []*file // of a poller: files that may be ready; of a listener: its queue
	count             uint64  // of an eventfd
	refusesHandshakes bool
	pipe              *pipeBytes
	socket
}

func newScript(t testing.TB, seed uint64) *script {
	k := &script{TB: t, clock: int64(time.Hour), plans: map[forward.Endpoint][]plan{}, sendRoom: 64 << 10}
	if seed != 0 {
		k.random = rand.New(rand.NewPCG(seed, 2))
		k.step = 50
	}
	return k
}

// chance is true once in n times, and never without randomness.
func (k *script) chance(n int) bool { return k.random != nil && k.random.IntN(n) == 0 }

// partial returns a number from 1 to n; n without randomness.
func (k *script) partial(n int) int {
	if k.random == nil || n < 2 || k.random.IntN(3) == 0 {
		return n
	}
	return 1 + k.random.IntN(n)
}

func (k *script) create(of kind) *file {
	k.used++
	if last := len(k.closed) - 1; k.recycle && last >= 0 {
		f := k.closed[last]
		k.closed = k.closed[:last]
		f.kind, f.isOpen = of, true
		f.socket.clear(k.sendRoom)
		return f
	}
	f := &file{kernel: k, kind: of, fd: len(k.files) + 3, isOpen: true}
	f.socket.clear(k.sendRoom)
	k.files = append(k.files, f)
	return f
}

// file returns an open descriptor of one of some kinds.
func (k *script) file(fd int, call string, of ...kind) *file {
	k.Helper()
	if fd < 3 || fd >= len(k.files)+3 {
		k.Fatalf("%s of descriptor %d, which was never open", call, fd)
	}
	f := k.files[fd-3]
	if !f.isOpen {
		k.Fatalf("%s of descriptor %d, which is closed", call, fd)
	}
	for _, o := range of {
		if f.kind == o {
			return f
		}
	}
	k.Fatalf("%s of descriptor %d, which is of kind %d", call, fd, f.kind)
	return nil
}

func (k *script) full() bool { return k.limit > 0 && k.used >= k.limit }

func (k *script) Now() int64 {
	k.clock += k.step
	return k.clock
}

func (k *script) Poller() (int, syscall.Errno) { return k.create(epoll).fd, 0 }
func (k *script) Waker() (int, syscall.Errno)  { return k.create(eventfd).fd, 0 }

func (k *script) Wake(waker int) {
	f := k.file(waker, "Wake", eventfd)
	f.count++
	f.wake(unix.EPOLLIN)
}

func (k *script) Woken(waker int) { k.file(waker, "Woken", eventfd).count = 0 }

// Watch is EPOLL_CTL_ADD: a descriptor that is ready raises an event at once.
func (k *script) Watch(poller, fd int, events uint32, tag uint64) syscall.Errno {
	p, f := k.file(poller, "Watch", epoll), k.file(fd, "Watch", stream, listening, eventfd)
	if len(k.watchErrors) > 0 {
		errno := k.watchErrors[0]
		if k.watchErrors = k.watchErrors[1:]; errno != 0 {
			return errno
		}
	}
	if f.poller != nil {
		k.Errorf("Watch of descriptor %d, which is watched", fd)
		return unix.EEXIST
	}
	f.poller = p
	f.register(events, tag)
	return 0
}

// Rewatch is EPOLL_CTL_MOD, which checks readiness again.
func (k *script) Rewatch(poller, fd int, events uint32, tag uint64) syscall.Errno {
	p, f := k.file(poller, "Rewatch", epoll), k.file(fd, "Rewatch", stream, listening)
	if f.poller != p {
		k.Errorf("Rewatch of descriptor %d, which is not watched", fd)
		return unix.ENOENT
	}
	f.register(events, tag)
	return 0
}

func (k *script) Unwatch(poller, fd int) {
	p, f := k.file(poller, "Unwatch", epoll), k.file(fd, "Unwatch", stream, listening)
	if f.poller != p {
		k.Errorf("Unwatch of descriptor %d, which is not watched", fd)
		return
	}
	f.forget()
}

// RefuseHandshakes works if filters is set.
func (k *script) RefuseHandshakes(fd int) syscall.Errno {
	f := k.file(fd, "RefuseHandshakes", listening)
	if !k.filters {
		return unix.ENOPROTOOPT
	}
	f.refusesHandshakes = true
	return 0
}

// Duplicate returns a new descriptor that shares nothing with the original: tests only count it.
func (k *script) Duplicate(fd int) (int, syscall.Errno) {
	f := k.file(fd, "Duplicate", listening)
	if k.full() {
		return -1, unix.EMFILE
	}
	return k.create(f.kind).fd, 0
}

func (f *file) register(events uint32, tag uint64) {
	f.mask, f.tag = events|unix.EPOLLERR|unix.EPOLLHUP, tag
	if f.poll()&f.mask != 0 {
		f.wake(0)
	}
}

// forget removes f from its poller.
func (f *file) forget() {
	if f.poller == nil {
		return
	}
	for i, other := range f.poller.list {
		if other == f {
			f.poller.list = append(f.poller.list[:i], f.poller.list[i+1:]...)
			break
		}
	}
	f.poller, f.ready = nil, false
}

// wake is ep_poll_callback. key is what happened, or 0 if the kernel does not say. What Wait
// reports is what is ready then.
func (f *file) wake(key uint32) {
	if f.poller == nil || f.ready || key != 0 && key&f.mask == 0 {
		return
	}
	f.ready = true
	f.poller.list = append(f.poller.list, f)
}

// Wait never sleeps: if nothing is ready, it returns at once, as after a signal. Each Wait advances
// the connects in progress.
func (k *script) Wait(poller int, events []unix.EpollEvent, timeout time.Duration) int {
	p := k.file(poller, "Wait", epoll)
	k.advanceConnects()
	k.lastTimeout = timeout
	if !k.stopLate && k.stop() {
		return 0
	}
	if k.random != nil {
		k.random.Shuffle(len(p.list), func(i, j int) { p.list[i], p.list[j] = p.list[j], p.list[i] })
	}
	n, seen, looked := 0, 0, len(p.list)
	for seen < looked && n < len(events) {
		f := p.list[seen]
		seen++
		mask := f.poll() & f.mask
		f.ready = false
		if mask == 0 {
			continue
		}
		events[n] = kernel.Event(mask, f.tag)
		n++
		if f.mask&unix.EPOLLET == 0 {
			f.wake(0) // a level is reported as long as it lasts
		}
	}
	p.list = p.list[:copy(p.list, p.list[seen:])]
	if k.stopLate {
		k.stop()
	}
	return n
}

// stop is SIGSTOP and SIGCONT, if the test has asked for them.
func (k *script) stop() bool {
	during := k.stopped
	if k.stopped = nil; during == nil {
		return false
	}
	during()
	return true
}

func (f *file) poll() uint32 {
	switch f.kind {
	case listening:
		if len(f.list) > 0 {
			return unix.EPOLLIN
		}
	case eventfd:
		if f.count > 0 {
			return unix.EPOLLIN
		}
	case stream:
		return f.pollSocket()
	}
	return 0
}

// Batch returns a batch that makes one call after the other.
func (k *script) Batch(int) kernel.Batch {
	if k.noBatches {
		return nil
	}
	k.batches++
	return scriptedBatch{k}
}

type scriptedBatch struct{ kernel *script }

func (b scriptedBatch) Recv(all []kernel.Transfer) {
	for i := range all {
		t := &all[i]
		t.N, t.Errno = b.kernel.Recv(t.FD, t.B)
	}
}

func (b scriptedBatch) Send(all []kernel.Transfer) {
	for i := range all {
		t := &all[i]
		t.N, t.Errno = b.kernel.Send(t.FD, t.B)
	}
}

func (b scriptedBatch) Close() { b.kernel.batches-- }

func (k *script) Close(fd int) {
	f := k.file(fd, "Close", stream, listening, pipeRead, pipeWrite, epoll, eventfd)
	f.forget()
	f.isOpen = false
	k.used--
	switch f.kind {
	case stream:
		f.closeSocket()
	case listening:
		for _, waiting := range f.list {
			waiting.gotRST, waiting.isOpen = true, false
		}
	}
	if k.recycle {
		k.closed = append(k.closed, f)
	}
}

// leaked counts the open descriptors of some kinds.
func (k *script) leaked(of ...kind) int {
	n := 0
	for _, f := range k.files {
		for _, o := range of {
			if f.isOpen && f.kind == o {
				n++
			}
		}
	}
	return n
}
