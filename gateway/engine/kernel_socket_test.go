package engine

import (
	"net/netip"
	"syscall"

	"unproxy/gateway/forward"

	"golang.org/x/sys/unix"
)

// socket is a stream socket of the gateway. The test controls the remote end with the methods
// deliver, sendFIN, reset, hangUp and consume, and reads what that received from the fields
// received, gotFIN and gotRST.
type socket struct {
	isUnix     bool
	connecting bool
	plan       plan
	connected  bool
	peer       netip.AddrPort // the address that connected
	source     netip.AddrPort // bound to, or the address that its peer connected to
	to         forward.Endpoint
	options    [][3]int

	rx          []byte        // from the remote end
	read        int           // of rx, by the gateway
	peeks       int           // number of calls of Peek
	peeked      int           // bytes after that which the last Peek returned
	mark        int           // index in rx of the last urgent byte; -1: none
	breaks      []int         // indices in rx where a read ends
	finReceived bool          // SOCK_DONE
	peerClosed  bool          // a unix remote end closed
	err         syscall.Errno // SO_ERROR
	wasReset    bool          // by the remote end: TCP_CLOSE
	eofOrder    int           // the script's eofCount when its end was read; 0: not read
	lowat       int           // SO_RCVLOWAT; 0: 1
	window      int           // of the receive buffer; 0: unlimited
	room        int           // of the send buffer
	consumed    int           // of received, by the remote end; the rest fills the send buffer
	noSpace     bool          // SOCK_NOSPACE: a write or a poll found no room
	finSent     bool          // by the gateway

	clientOptions

	received       []byte // everything the gateway sent
	gotFIN, gotRST bool
}

// ephemeralPort is the port that this kernel assigns.
const ephemeralPort = 32768

func (s *socket) clear(room int) {
	*s = socket{room: room, mark: -1, rx: s.rx[:0], received: s.received[:0], options: s.options[:0]}
}

func (s *socket) space() int      { return s.room - (len(s.received) - s.consumed) }
func (s *socket) writeable() bool { return 2*s.space() >= len(s.received)-s.consumed } // sk_stream_is_writeable
func (s *socket) unread() int     { return len(s.rx) - s.read }

// pollSocket is tcp_poll.
func (f *file) pollSocket() (mask uint32) {
	if f.wasReset || f.peerClosed || f.finReceived && f.finSent {
		mask |= unix.EPOLLHUP
	}
	if f.wasReset || f.peerClosed || f.finReceived {
		mask |= unix.EPOLLIN | unix.EPOLLRDHUP
	}
	if f.err != 0 {
		mask |= unix.EPOLLERR
	}
	if f.connecting {
		return mask
	}
	if f.hasInput() {
		mask |= unix.EPOLLIN
	}
	if f.mark >= f.read {
		mask |= unix.EPOLLPRI
	}
	if f.finSent || f.wasReset || f.writeable() {
		return mask | unix.EPOLLOUT
	}
	f.noSpace = true
	return mask
}

// hasInput is tcp_epollin_ready.
func (s *socket) hasInput() bool {
	return s.unread() > 0 && (s.unread() >= s.lowat || s.window > 0 && s.unread() >= s.window || s.mark >= s.read)
}

// setLowWater is tcp_set_rcvlowat.
func (f *file) setLowWater(n int) {
	if f.isUnix {
		f.kernel.Errorf("a low-water mark on a unix socket")
	}
	if f.lowat = n; f.window > 0 {
		f.lowat = min(n, f.window/2)
	}
	if f.hasInput() {
		f.wake(unix.EPOLLIN | unix.EPOLLPRI)
	}
}

// deliver receives bytes from the remote end.
func (f *file) deliver(b []byte) {
	if len(b) == 0 || f.wasReset || f.finReceived || !f.isOpen {
		return
	}
	f.rx = append(f.rx, b...)
	if f.hasInput() { // tcp_data_ready
		f.wake(unix.EPOLLIN | unix.EPOLLPRI)
	}
}

// deliverUrgent receives bytes, the last of which is urgent (tcp_urg).
func (f *file) deliverUrgent(b []byte) {
	f.mark = len(f.rx) + len(b) - 1
	f.deliver(b)
}

// deliverPassing receives bytes with a descriptor, on a unix socket: a read ends after them
// (unix_stream_read_generic).
func (f *file) deliverPassing(b []byte) {
	f.breaks = append(f.breaks, len(f.rx)+len(b))
	f.deliver(b)
}

// sendFIN receives a FIN from the remote end (tcp_fin).
func (f *file) sendFIN() {
	if f.wasReset || !f.isOpen {
		return
	}
	f.finReceived = true
	f.wake(0)
}

// hangUp is the close of a unix remote end (unix_release_sock).
func (f *file) hangUp() {
	f.peerClosed, f.finReceived = true, true
	f.wake(0)
}

// reset receives a RST from the remote end (tcp_reset).
func (f *file) reset() {
	if f.wasReset || !f.isOpen {
		return
	}
	f.err = unix.ECONNRESET
	if f.finReceived && !f.finSent {
		f.err = unix.EPIPE // TCP_CLOSE_WAIT
	}
	f.wasReset = true
	f.wake(0)
}

// consume makes the remote end read n bytes, which frees send buffer.
func (f *file) consume(n int) {
	f.consumed = min(f.consumed+n, len(f.received))
	if f.noSpace && f.writeable() {
		f.noSpace = false
		f.wake(unix.EPOLLOUT)
	}
}

func (f *file) takeError() syscall.Errno {
	errno := f.err
	f.err = 0
	return errno
}

// readable is the common part of tcp_recvmsg and tcp_splice_read: the number of bytes available, or
// the error.
func (f *file) readable(inline bool) (n int, errno syscall.Errno) {
	n = f.unread()
	if f.mark > f.read {
		n = f.mark - f.read // a read ends before urgent data
	}
	if f.mark == f.read && !inline {
		n = 0
	}
	for _, end := range f.breaks {
		if end > f.read {
			n = min(n, end-f.read)
		}
	}
	switch {
	case f.connecting:
		return 0, unix.EAGAIN
	case n > 0:
		return n, 0
	case f.finReceived:
		if f.eofOrder == 0 && f.unread() == 0 {
			f.kernel.eofCount++
			f.eofOrder = f.kernel.eofCount
		}
		return 0, 0
	case f.err != 0:
		return 0, f.takeError()
	case f.wasReset:
		return 0, 0 // RCV_SHUTDOWN
	}
	return 0, unix.EAGAIN
}

func (k *script) Recv(fd int, b []byte) (int, syscall.Errno) {
	f := k.file(fd, "Recv", stream)
	if len(b) == 0 {
		k.Errorf("Recv of no bytes")
	}
	if k.chance(16) {
		return 0, unix.EINTR
	}
	n, errno := f.readable(true)
	n = copy(b, f.rx[f.read:f.read+n])
	f.read += n
	f.peeked = max(0, f.peeked-n)
	return n, errno
}

// Peek is recv(2) with MSG_PEEK.
func (k *script) Peek(fd int, b []byte) (int, syscall.Errno) {
	f := k.file(fd, "Peek", stream)
	f.peeks++
	if len(b) == 0 {
		k.Errorf("Peek of no bytes")
	}
	if k.chance(16) {
		return 0, unix.EINTR
	}
	n, errno := f.readable(true)
	f.peeked = copy(b, f.rx[f.read:f.read+n])
	return f.peeked, errno
}

// Discard is recv(2) with MSG_TRUNC. It destroys what is in b, as on a unix socket.
func (k *script) Discard(fd int, b []byte) (int, syscall.Errno) {
	f := k.file(fd, "Discard", stream)
	if len(b) == 0 || len(b) > f.peeked {
		k.Errorf("Discard of %d bytes, %d were peeked", len(b), f.peeked)
	}
	if k.chance(16) {
		return 0, unix.EINTR
	}
	n := k.partial(len(b))
	clear(b[:n])
	f.read += n
	f.peeked -= n
	return n, 0
}

// writable is the check at the start of tcp_sendmsg.
func (f *file) writable() syscall.Errno {
	switch {
	case f.err != 0:
		return f.takeError()
	case f.finSent:
		f.kernel.Errorf("Send on descriptor %d after its FIN", f.fd)
		return unix.EPIPE
	case f.wasReset || f.peerClosed:
		return unix.EPIPE
	case f.connecting:
		return unix.EAGAIN
	case f.space() <= 0:
		f.noSpace = true
		return unix.EAGAIN
	}
	return 0
}

func (k *script) Send(fd int, b []byte) (int, syscall.Errno) {
	f := k.file(fd, "Send", stream)
	if len(b) == 0 {
		k.Errorf("Send of no bytes")
	}
	if k.chance(16) {
		return 0, unix.EINTR
	}
	if errno := f.writable(); errno != 0 {
		return 0, errno
	}
	n := k.partial(min(len(b), f.space()))
	f.received = append(f.received, b[:n]...)
	return n, 0
}

func (k *script) Shutdown(fd int) syscall.Errno {
	f := k.file(fd, "Shutdown", stream)
	k.shutdowns++
	if len(k.shutdownErrors) > 0 {
		errno := k.shutdownErrors[0]
		k.shutdownErrors = k.shutdownErrors[1:]
		return errno
	}
	if !f.connected || f.wasReset { // TCP_CLOSE
		return unix.ENOTCONN
	}
	if f.finSent {
		k.Errorf("a second FIN for descriptor %d", fd)
	}
	f.finSent = true
	f.gotFIN = true
	return 0
}

// Reset is close(2) with a linger time of 0.
func (k *script) Reset(fd int) {
	f := k.file(fd, "Reset", stream)
	f.gotRST = !f.wasReset
	k.Close(fd)
}

// closeSocket is tcp_close: unread bytes turn the FIN into a RST.
func (f *file) closeSocket() {
	switch {
	case f.gotRST || f.wasReset || !f.connected:
	case f.unread() > 0:
		f.gotRST = true
	default:
		f.gotFIN = true
	}
}

func (k *script) Socket(family int) (int, syscall.Errno) {
	if k.full() {
		return -1, unix.EMFILE
	}
	f := k.create(stream)
	f.isUnix = family == unix.AF_UNIX
	return f.fd, 0
}

func (k *script) SetOption(fd, level, name, value int) syscall.Errno {
	f := k.file(fd, "SetOption", stream, listening)
	if k.optionError != nil {
		if errno := k.optionError(level, name); errno != 0 {
			return errno
		}
	}
	f.options = append(f.options, [3]int{level, name, value})
	if level == unix.SOL_SOCKET && name == unix.SO_RCVLOWAT {
		f.setLowWater(value)
	}
	return 0
}

func (k *script) Bind(fd int, a netip.AddrPort) syscall.Errno {
	f := k.file(fd, "Bind", stream)
	if k.bindError != nil {
		if errno := k.bindError(a); errno != 0 {
			return errno
		}
	}
	f.source = a
	return 0
}

func (k *script) BindPath(fd int, path string) syscall.Errno {
	k.file(fd, "BindPath", stream)
	return 0
}

func (k *script) Listen(fd, backlog int) syscall.Errno {
	k.file(fd, "Listen", stream).kind = listening
	return 0
}

func (k *script) LocalAddr(fd int) (netip.AddrPort, syscall.Errno) {
	return k.file(fd, "LocalAddr", listening, stream).source, 0
}

func (k *script) HasSource(netip.AddrPort) bool { return !k.noSource }

func (k *script) SocketError(fd int) syscall.Errno {
	return k.file(fd, "SocketError", stream).takeError()
}

// arrive puts a new connection into a listener's queue.
func (k *script) arrive(ln *file, from netip.AddrPort) *file {
	f := k.create(stream)
	k.used-- // it has no descriptor yet
	f.connected, f.peer, f.source = true, from, ln.source
	ln.list = append(ln.list, f)
	ln.wake(unix.EPOLLIN)
	return f
}

// Accept takes a descriptor before it looks at the queue (__sys_accept4_file): without a free
// descriptor it fails even if the queue is empty.
func (k *script) Accept(fd int) (int, netip.AddrPort, syscall.Errno) {
	ln := k.file(fd, "Accept", listening)
	switch {
	case k.chance(16):
		return -1, netip.AddrPort{}, unix.EINTR
	case len(k.acceptErrors) > 0:
		errno := k.acceptErrors[0]
		k.acceptErrors = k.acceptErrors[1:]
		return -1, netip.AddrPort{}, errno
	case k.full():
		return -1, netip.AddrPort{}, unix.EMFILE
	case len(ln.list) == 0:
		return -1, netip.AddrPort{}, unix.EAGAIN
	}
	f := ln.list[0]
	k.used++
	ln.list = ln.list[:copy(ln.list, ln.list[1:])]
	return f.fd, f.peer, 0
}

func (k *script) planFor(to forward.Endpoint) plan {
	all := k.plans[to]
	if len(all) == 0 {
		return plan{}
	}
	if len(all) > 1 {
		k.plans[to] = all[1:]
	}
	return all[0]
}

func (k *script) Connect(fd int, to netip.AddrPort) syscall.Errno {
	return k.connect(fd, forward.Endpoint{Addr: to})
}

func (k *script) ConnectPath(fd int, path string) syscall.Errno {
	return k.connect(fd, forward.Endpoint{Path: path})
}

func (k *script) connect(fd int, to forward.Endpoint) syscall.Errno {
	f := k.file(fd, "Connect", stream)
	if f.connecting || f.connected || f.wasReset {
		k.Errorf("Connect of descriptor %d for the second time", fd)
	}
	f.to, f.plan = to, k.planFor(to)
	k.dials = append(k.dials, dial{to, f.source, f})
	if k.onDial != nil {
		k.onDial(f)
	}
	if f.source.IsValid() && f.source.Port() == 0 { // IP_BIND_ADDRESS_NO_PORT: connect(2) assigns the port
		f.source = netip.AddrPortFrom(f.source.Addr(), ephemeralPort)
	}
	if f.source.IsValid() && f.plan.source.IsValid() { // as __inet_bind does with a broadcast address
		f.source = netip.AddrPortFrom(f.plan.source, f.source.Port())
	}
	if f.plan.errno != 0 {
		return f.plan.errno
	}
	if f.isUnix {
		f.connected = true
		return 0
	}
	f.connecting = true
	if f.plan.waits == 0 {
		f.finishConnect()
	} else {
		k.pending = append(k.pending, f)
	}
	if k.chance(16) {
		return unix.EINTR
	}
	return unix.EINPROGRESS
}

// finishConnect is the answer to a SYN.
func (f *file) finishConnect() {
	f.connecting = false
	if f.plan.result == 0 {
		f.connected = true
	} else {
		f.err, f.wasReset = f.plan.result, true
	}
	f.wake(0)
}

func (k *script) advanceConnects() {
	left := k.pending[:0]
	for _, f := range k.pending {
		if !f.isOpen {
			continue
		}
		if f.plan.waits--; f.plan.waits == 0 {
			f.finishConnect()
			continue
		}
		left = append(left, f)
	}
	k.pending = left
}
