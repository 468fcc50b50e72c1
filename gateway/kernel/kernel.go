// Package kernel is the interface between the data plane and the operating system:
// the system calls that the engine and the UDP relay share, and their implementation.
//
// kernel.go holds the single calls, batch.go those that move the bytes of many
// sockets at once, and sockaddr.go the conversion of addresses.
package kernel

import (
	"errors"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"unproxy/transparent"
)

// Kernel is every system call of the TCP data plane. [System] makes them; tests
// script them.
//
// No call blocks except Wait with a timeout. A call that returns an errno may
// return EINTR. Descriptors are non-blocking and close-on-exec. An
// implementation belongs to the goroutine that uses it, except for Wake.
type Kernel interface {
	transparent.Sockets

	// Now returns a monotonic time in nanoseconds.
	Now() int64

	// Socket opens a stream socket of family AF_INET, AF_INET6 or AF_UNIX.
	Socket(family int) (int, syscall.Errno)
	// BindPath binds a unix socket.
	BindPath(fd int, path string) syscall.Errno
	// Listen starts listening. The kernel limits backlog to
	// net.core.somaxconn.
	Listen(fd, backlog int) syscall.Errno
	// RefuseHandshakes makes a TCP listener ignore new handshakes. Handshakes
	// in progress complete, and connections are not affected.
	RefuseHandshakes(fd int) syscall.Errno
	// Accept accepts a connection. peer is invalid for a unix socket, and never
	// IPv4-mapped.
	Accept(fd int) (conn int, peer netip.AddrPort, errno syscall.Errno)
	// Connect starts to connect. After EINPROGRESS, EPOLLOUT reports the
	// result.
	Connect(fd int, to netip.AddrPort) syscall.Errno
	// ConnectPath connects a unix socket.
	ConnectPath(fd int, path string) syscall.Errno
	// HasSource reports whether the host has a source address for connections to an
	// address. It sends nothing. If the answer is unknown, it returns true.
	HasSource(to netip.AddrPort) bool
	// Duplicate returns a second descriptor of the same open file.
	Duplicate(fd int) (int, syscall.Errno)
	// LocalAddr returns the address that a socket is bound to.
	LocalAddr(fd int) (netip.AddrPort, syscall.Errno)
	// SocketError returns and clears SO_ERROR.
	SocketError(fd int) syscall.Errno

	// Recv reads from a socket. 0 without an error is the end of the stream.
	Recv(fd int, b []byte) (int, syscall.Errno)
	// Send writes to a socket.
	Send(fd int, b []byte) (int, syscall.Errno)
	// Pipe opens a pipe and asks for a capacity of size bytes.
	Pipe(size int) (p Pipe, errno syscall.Errno)
	// Splice moves up to n bytes from one descriptor to another, one of which
	// is a pipe.
	Splice(from, to, n int) (int, syscall.Errno)
	// ReadPipe reads from a pipe.
	ReadPipe(fd int, b []byte) (int, syscall.Errno)

	// Batch prepares for up to n transfers at once; nil if the system does not
	// offer it.
	Batch(n int) Batch

	// Shutdown sends a FIN and leaves the other direction open.
	Shutdown(fd int) syscall.Errno
	// Reset closes a socket, on TCP with a RST.
	Reset(fd int)
	// Close closes a descriptor.
	Close(fd int)

	// Poller opens an epoll instance.
	Poller() (int, syscall.Errno)
	// Waker opens an eventfd that wakes a poller.
	Waker() (int, syscall.Errno)
	// Watch, Rewatch and Unwatch are EPOLL_CTL_ADD, MOD and DEL.
	Watch(poller, fd int, events uint32, tag uint64) syscall.Errno
	Rewatch(poller, fd int, events uint32, tag uint64) syscall.Errno
	Unwatch(poller, fd int)
	// Wait collects events. The timeout is in milliseconds; -1 waits without limit.
	Wait(poller int, events []unix.EpollEvent, timeout int) int
	// Wake makes a waker readable. Any goroutine may call it.
	Wake(waker int)
	// Woken makes a waker unreadable again.
	Woken(waker int)
}

// Pipe is a kernel pipe that bulk data is spliced through.
type Pipe struct {
	// Read and Write are the descriptors of its two ends.
	Read, Write int
	// Size is its capacity in bytes, which may be less than requested.
	Size int
}

// Tag returns the 64 bits of data of an epoll event. The two architectures lay
// them out differently, but x/sys names the fields alike.
func Tag(ev *unix.EpollEvent) uint64 {
	return uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
}

// Event returns an epoll event with the given data. It is the inverse of [Tag].
func Event(events uint32, tag uint64) unix.EpollEvent {
	return unix.EpollEvent{Events: events, Fd: int32(uint32(tag)), Pad: int32(uint32(tag >> 32))}
}

// linux is the real kernel. All calls except the blocking wait use RawSyscall:
// they return at once, and notifying the scheduler of each would cost an eighth
// of the throughput. The blocking wait must notify it, or a sleeping loop would
// delay the garbage collector.
type linux struct{ start time.Time }

// System returns the real kernel. It has no state but its clock's zero, so one
// value may be shared.
func System() Kernel { return linux{start: time.Now()} }

func (k linux) Now() int64 { return int64(time.Since(k.start)) }

func call3(trap, a, b, c uintptr) (uintptr, syscall.Errno) {
	r, _, errno := unix.RawSyscall(trap, a, b, c)
	return r, errno
}

func call6(trap, a, b, c, d, e, f uintptr) (uintptr, syscall.Errno) {
	r, _, errno := unix.RawSyscall6(trap, a, b, c, d, e, f)
	return r, errno
}

func (linux) Socket(family int) (int, syscall.Errno) {
	fd, errno := call3(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return int(fd), errno
}

func (linux) SetOption(fd, level, name, value int) syscall.Errno {
	v := int32(value)
	_, errno := call6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	return errno
}

func (linux) Bind(fd int, a netip.AddrPort) syscall.Errno {
	var raw unix.RawSockaddrInet6
	n := EncodeSockaddr(&raw, a)
	_, errno := call3(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&raw)), n)
	return errno
}

func (linux) BindPath(fd int, path string) syscall.Errno {
	raw, n, errno := encodePath(path)
	if errno != 0 {
		return errno
	}
	_, errno = call3(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&raw)), n)
	return errno
}

func (linux) Listen(fd, backlog int) syscall.Errno {
	_, errno := call3(unix.SYS_LISTEN, uintptr(fd), uintptr(backlog), 0)
	return errno
}

// RefuseHandshakes attaches a socket filter (socket(7), SO_ATTACH_FILTER). The
// filter sees packets from the TCP header on (tcp_v4_rcv, tcp_v6_rcv) and drops
// those with SYN but without ACK (RFC 9293, section 3.1). Accepted sockets
// inherit the filter, which never matches their packets.
func (linux) RefuseHandshakes(fd int) syscall.Errno {
	const flags, syn, ack, all = 13, 0x02, 0x10, 1<<32 - 1
	program := [...]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: syn},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, errno := call6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, uintptr(unsafe.Pointer(&f)), unsafe.Sizeof(f), 0)
	return errno
}

func (linux) Accept(fd int) (int, netip.AddrPort, syscall.Errno) {
	var raw unix.RawSockaddrInet6
	n := uint32(unsafe.Sizeof(raw))
	conn, errno := call6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&n)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(conn), DecodeSockaddr(&raw), 0
}

func (linux) Connect(fd int, to netip.AddrPort) syscall.Errno {
	var raw unix.RawSockaddrInet6
	n := EncodeSockaddr(&raw, to)
	_, errno := call3(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), n)
	return errno
}

func (linux) ConnectPath(fd int, path string) syscall.Errno {
	raw, n, errno := encodePath(path)
	if errno != 0 {
		return errno
	}
	_, errno = call3(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), n)
	return errno
}

// HasSource connects a datagram socket, which looks up the route and chooses the
// address (ip6_datagram_connect).
func (k linux) HasSource(to netip.AddrPort) bool {
	family := uintptr(unix.AF_INET6)
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, errno := call3(unix.SYS_SOCKET, family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return true
	}
	defer k.Close(int(fd))
	return k.Connect(int(fd), to) != unix.EADDRNOTAVAIL
}

func (linux) Duplicate(fd int) (int, syscall.Errno) {
	n, errno := call3(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return int(n), errno
}

func (linux) LocalAddr(fd int) (netip.AddrPort, syscall.Errno) {
	var raw unix.RawSockaddrInet6
	n := uint32(unsafe.Sizeof(raw))
	_, errno := call3(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&n)))
	return DecodeSockaddr(&raw), errno
}

func (linux) SocketError(fd int) syscall.Errno {
	var v int32
	n := uint32(unsafe.Sizeof(v))
	_, errno := call6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR, uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return syscall.Errno(v)
}

func (linux) Recv(fd int, b []byte) (int, syscall.Errno) {
	n, errno := call6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Send(fd int, b []byte) (int, syscall.Errno) {
	n, errno := call6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (k linux) Pipe(size int) (Pipe, syscall.Errno) {
	var fds [2]int32
	if _, errno := call3(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&fds)), unix.O_NONBLOCK|unix.O_CLOEXEC, 0); errno != 0 {
		return Pipe{}, errno
	}
	p := Pipe{Read: int(fds[0]), Write: int(fds[1])}
	// The kernel refuses unprivileged users beyond fs.pipe-user-pages-soft
	// (pipe(7)), so ask for the capacity that the pipe really got.
	call3(unix.SYS_FCNTL, uintptr(p.Write), unix.F_SETPIPE_SZ, uintptr(size))
	got, errno := call3(unix.SYS_FCNTL, uintptr(p.Write), unix.F_GETPIPE_SZ, 0)
	if errno != 0 {
		k.Close(p.Read)
		k.Close(p.Write)
		return Pipe{}, errno
	}
	p.Size = int(got)
	return p, 0
}

func (linux) ReadPipe(fd int, b []byte) (int, syscall.Errno) {
	n, errno := call3(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Splice(from, to, n int) (int, syscall.Errno) {
	m, errno := call6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if errno != 0 {
		return 0, errno
	}
	return int(m), 0
}

func (linux) Batch(n int) Batch {
	if a, ok := newAIO(n); ok {
		return a
	}
	return nil
}

func (linux) Shutdown(fd int) syscall.Errno {
	_, errno := call3(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return errno
}

func (k linux) Reset(fd int) {
	// tcp_close() sends a RST instead of a FIN if the linger time is 0.
	linger := unix.Linger{Onoff: 1}
	call6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&linger)), unsafe.Sizeof(linger), 0)
	k.Close(fd)
}

// Close does not retry after EINTR: the descriptor is closed already (close(2)).
func (linux) Close(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func (linux) Poller() (int, syscall.Errno) {
	fd, errno := call3(unix.SYS_EPOLL_CREATE1, unix.EPOLL_CLOEXEC, 0, 0)
	return int(fd), errno
}

func (linux) Waker() (int, syscall.Errno) {
	fd, errno := call3(unix.SYS_EVENTFD2, 0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC, 0)
	return int(fd), errno
}

func epollCtl(poller, op, fd int, ev *unix.EpollEvent) syscall.Errno {
	_, errno := call6(unix.SYS_EPOLL_CTL, uintptr(poller), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0)
	return errno
}

func (linux) Watch(poller, fd int, events uint32, tag uint64) syscall.Errno {
	ev := Event(events, tag)
	return epollCtl(poller, unix.EPOLL_CTL_ADD, fd, &ev)
}

func (linux) Rewatch(poller, fd int, events uint32, tag uint64) syscall.Errno {
	ev := Event(events, tag)
	return epollCtl(poller, unix.EPOLL_CTL_MOD, fd, &ev)
}

func (linux) Unwatch(poller, fd int) {
	epollCtl(poller, unix.EPOLL_CTL_DEL, fd, &unix.EpollEvent{})
}

func (linux) Wait(poller int, events []unix.EpollEvent, timeout int) int {
	// epoll_pwait, because arm64 has no epoll_wait.
	var got uintptr
	var errno syscall.Errno
	if timeout == 0 {
		got, errno = call6(unix.SYS_EPOLL_PWAIT, uintptr(poller), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	} else {
		got, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(poller), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(timeout), 0, 0)
	}
	if errno != 0 {
		return 0 // EINTR: the caller waits again
	}
	return int(got)
}

func (linux) Wake(waker int) {
	one := uint64(1)
	call3(unix.SYS_WRITE, uintptr(waker), uintptr(unsafe.Pointer(&one)), 8)
}

func (linux) Woken(waker int) {
	var n uint64
	call3(unix.SYS_READ, uintptr(waker), uintptr(unsafe.Pointer(&n)), 8)
}

// encodePath encodes a sockaddr_un. A leading "@" stands for the NUL byte of an
// abstract name (unix(7)).
func encodePath(path string) (raw unix.RawSockaddrUnix, n uintptr, errno syscall.Errno) {
	if len(path) >= len(raw.Path) {
		return raw, 0, unix.ENAMETOOLONG
	}
	raw.Family = unix.AF_UNIX
	for i := range len(path) {
		raw.Path[i] = int8(path[i])
	}
	n = 2 + uintptr(len(path)) + 1
	if path[0] == '@' {
		raw.Path[0] = 0
		n--
	}
	return raw, n, 0
}

// NoIPv6 reports whether an error of socket(2) or bind(2) means that the host has
// no IPv6: the module is missing, or IPv6 is disabled on every interface.
func NoIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// Bool returns the value of a socket option that is on or off.
func Bool(on bool) int {
	if on {
		return 1
	}
	return 0
}
