package engine

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
	"unproxy/transparent/toa"
)

// fault makes the n-th call of a method in a state of the victim fail, and, if it lasts, the later
// ones of that method, whatever the state.
type fault struct {
	method string
	state  state
	nth    int
	errno  syscall.Errno
	lasts  bool
}

// place is where a call can fail: its method, and the state of the victim.
type place struct {
	method string
	state  state
}

// faulty is a scripted kernel that records the calls made for one session, the victim, and makes
// them fail. The victim is the session of the second listener.
type faulty struct {
	*script
	engine *Engine // nil until New has returned
	armed  bool
	fault  *fault
	made   map[place]int // calls while armed
	hit    int           // calls that failed
}

// maxTransient is how often a call fails in a row with an error that asks to repeat it.
const maxTransient = 3

// victim returns the session of the second listener, or nil.
func (k *faulty) victim() *session {
	if k.engine == nil {
		return nil
	}
	for s := range k.engine.loops[0].sessions.live() {
		if s.listener.index == 1 {
			return s
		}
	}
	return nil
}

// concernsOthers reports whether a call with a descriptor is not made for the victim.
func (k *faulty) concernsOthers(fd int) bool {
	if k.engine == nil {
		return false
	}
	l := k.engine.loops[0]
	if fd == l.listeners[0].fd {
		return true
	}
	for s := range l.sessions.live() {
		if s.listener.index != 1 && (int(s.sides[peer].fd) == fd || int(s.sides[backend].fd) == fd) {
			return true
		}
	}
	return false
}

// fail returns the error of a call with some descriptors, 0 if it is to be made.
func (k *faulty) fail(method string, fds ...int) syscall.Errno {
	if !k.armed {
		return 0
	}
	for _, fd := range fds {
		if k.concernsOthers(fd) {
			return 0
		}
	}
	at := place{method: method}
	if s := k.victim(); s != nil {
		at.state = s.state
	}
	n := k.made[at]
	k.made[at]++
	f := k.fault
	if f == nil || f.method != method {
		return 0
	}
	begins := k.hit == 0 && at.state == f.state && n == f.nth
	if !begins && (k.hit == 0 || !f.lasts || isTransient(f.errno) && k.hit >= maxTransient) {
		return 0
	}
	k.hit++
	if f.errno == unix.EAGAIN {
		k.oweEvent(fds)
	}
	return f.errno
}

// oweEvent raises an event for sockets: a kernel that returns EAGAIN reports when that is over.
func (k *faulty) oweEvent(fds []int) {
	for _, fd := range fds {
		if f := k.files[fd-3]; f.kind == stream {
			f.noSpace = true
			f.wake(0)
		}
	}
}

func isTransient(errno syscall.Errno) bool { return errno == unix.EAGAIN || errno == unix.EINTR }

func (k *faulty) Socket(family int) (int, syscall.Errno) {
	if errno := k.fail("Socket"); errno != 0 {
		return -1, errno
	}
	return k.script.Socket(family)
}

func (k *faulty) BindPath(fd int, path string) syscall.Errno {
	if errno := k.fail("BindPath", fd); errno != 0 {
		return errno
	}
	return k.script.BindPath(fd, path)
}

func (k *faulty) Listen(fd, backlog int) syscall.Errno {
	if errno := k.fail("Listen", fd); errno != 0 {
		return errno
	}
	return k.script.Listen(fd, backlog)
}

func (k *faulty) RefuseHandshakes(fd int) syscall.Errno {
	if errno := k.fail("RefuseHandshakes"); errno != 0 {
		return errno
	}
	return k.script.RefuseHandshakes(fd)
}

func (k *faulty) Accept(fd int) (int, netip.AddrPort, syscall.Errno) {
	if errno := k.fail("Accept", fd); errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return k.script.Accept(fd)
}

// Connect continues after two of its errors (connect(2)).
func (k *faulty) Connect(fd int, to netip.AddrPort) syscall.Errno {
	errno := k.fail("Connect", fd)
	if errno != 0 && errno != unix.EINPROGRESS && errno != unix.EINTR {
		return errno
	}
	if result := k.script.Connect(fd, to); result != unix.EINPROGRESS || errno == 0 {
		return result
	}
	return errno
}

func (k *faulty) ConnectPath(fd int, path string) syscall.Errno {
	errno := k.fail("ConnectPath", fd)
	if errno != 0 && errno != unix.EINTR {
		return errno
	}
	if result := k.script.ConnectPath(fd, path); result != 0 || errno == 0 {
		return result
	}
	return errno
}

// HasSource does not know the answer.
func (k *faulty) HasSource(to netip.AddrPort) bool {
	return k.fail("HasSource") != 0 || k.script.HasSource(to)
}

func (k *faulty) Duplicate(fd int) (int, syscall.Errno) {
	if errno := k.fail("Duplicate"); errno != 0 {
		return -1, errno
	}
	return k.script.Duplicate(fd)
}

func (k *faulty) LocalAddr(fd int) (netip.AddrPort, syscall.Errno) {
	if errno := k.fail("LocalAddr", fd); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return k.script.LocalAddr(fd)
}

func (k *faulty) SocketError(fd int) syscall.Errno {
	if errno := k.fail("SocketError", fd); errno != 0 {
		return errno
	}
	return k.script.SocketError(fd)
}

func (k *faulty) Recv(fd int, b []byte) (int, syscall.Errno) {
	if errno := k.fail("Recv", fd); errno != 0 {
		return 0, errno
	}
	return k.script.Recv(fd, b)
}

func (k *faulty) Peek(fd int, b []byte) (int, syscall.Errno) {
	if errno := k.fail("Peek", fd); errno != 0 {
		return 0, errno
	}
	return k.script.Peek(fd, b)
}

func (k *faulty) Discard(fd int, b []byte) (int, syscall.Errno) {
	if errno := k.fail("Discard", fd); errno != 0 {
		return 0, errno
	}
	return k.script.Discard(fd, b)
}

func (k *faulty) Send(fd int, b []byte) (int, syscall.Errno) {
	if errno := k.fail("Send", fd); errno != 0 {
		return 0, errno
	}
	return k.script.Send(fd, b)
}

func (k *faulty) Pipe(size int) (kernel.Pipe, syscall.Errno) {
	if errno := k.fail("Pipe"); errno != 0 {
		return kernel.Pipe{}, errno
	}
	return k.script.Pipe(size)
}

// Splice may be followed by a call for the empty pipe, see refusesSplice.
func (k *faulty) Splice(from, to, n int) (int, syscall.Errno) {
	if errno := k.fail("Splice", from, to); errno != 0 {
		k.probed = true
		return 0, errno
	}
	return k.script.Splice(from, to, n)
}

func (k *faulty) ReadPipe(fd int, b []byte) (int, syscall.Errno) {
	if errno := k.fail("ReadPipe", fd); errno != 0 {
		return 0, errno
	}
	return k.script.ReadPipe(fd, b)
}

func (k *faulty) Shutdown(fd int) syscall.Errno {
	if errno := k.fail("Shutdown", fd); errno != 0 {
		return errno
	}
	return k.script.Shutdown(fd)
}

func (k *faulty) Poller() (int, syscall.Errno) {
	if errno := k.fail("Poller"); errno != 0 {
		return -1, errno
	}
	return k.script.Poller()
}

func (k *faulty) Waker() (int, syscall.Errno) {
	if errno := k.fail("Waker"); errno != 0 {
		return -1, errno
	}
	return k.script.Waker()
}

func (k *faulty) Watch(poller, fd int, events uint32, tag uint64) syscall.Errno {
	if errno := k.fail("Watch", fd); errno != 0 {
		return errno
	}
	return k.script.Watch(poller, fd, events, tag)
}

func (k *faulty) Rewatch(poller, fd int, events uint32, tag uint64) syscall.Errno {
	if errno := k.fail("Rewatch", fd); errno != 0 {
		return errno
	}
	return k.script.Rewatch(poller, fd, events, tag)
}

// Wait returns no events, as after EINTR. What is ready stays so.
func (k *faulty) Wait(poller int, events []unix.EpollEvent, timeout time.Duration) int {
	if k.fail("Wait") != 0 {
		return 0
	}
	return k.script.Wait(poller, events, timeout)
}

func (k *faulty) SetOption(fd, level, name, value int) syscall.Errno {
	if errno := k.fail("SetOption", fd); errno != 0 {
		return errno
	}
	return k.script.SetOption(fd, level, name, value)
}

func (k *faulty) Bind(fd int, a netip.AddrPort) syscall.Errno {
	if errno := k.fail("Bind", fd); errno != 0 {
		return errno
	}
	return k.script.Bind(fd, a)
}

func (k *faulty) SetClient(fd int, v toa.Value) syscall.Errno {
	if errno := k.fail("SetClient", fd); errno != 0 {
		return errno
	}
	return k.script.SetClient(fd, v)
}

func (k *faulty) ClientState(fd int) (toa.Reply, syscall.Errno) {
	if errno := k.fail("ClientState", fd); errno != 0 {
		return toa.Reply{}, errno
	}
	return k.script.ClientState(fd)
}

func (k *faulty) Batch(n int) kernel.Batch {
	if k.fail("Batch") != 0 {
		return nil
	}
	b := k.script.Batch(n)
	if b == nil {
		return nil
	}
	return faultyBatch{b, k}
}

// faultyBatch makes one transfer after the other, each of which can fail.
type faultyBatch struct {
	kernel.Batch
	kernel *faulty
}

func (b faultyBatch) Recv(all []kernel.Transfer) { b.each("Batch.Recv", all, b.Batch.Recv) }
func (b faultyBatch) Send(all []kernel.Transfer) { b.each("Batch.Send", all, b.Batch.Send) }

func (b faultyBatch) each(method string, all []kernel.Transfer, move func([]kernel.Transfer)) {
	for i := range all {
		t := &all[i]
		if t.N, t.Errno = 0, b.kernel.fail(method, t.FD); t.Errno == 0 {
			move(all[i : i+1])
		}
	}
}
