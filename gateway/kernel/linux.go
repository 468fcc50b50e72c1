package kernel

import (
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"unproxy/transparent/toa"
)

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
	_, errno := call6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	return errno
}

func (linux) SetClient(fd int, v toa.Value) syscall.Errno { return toa.System{}.SetClient(fd, v) }

func (linux) ClientState(fd int) (toa.Reply, syscall.Errno) { return toa.System{}.ClientState(fd) }

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

// RefuseHandshakes binds the listener to an interface that does not exist, so that no packet finds it any more
// (inet_lookup_listener, compute_score): a client's SYN is answered by an RST. Handshakes in progress are sockets of
// their own and stay bound as they were (ir_iif). Linux permits this without a capability from 5.7 on; a listener that
// is bound to an interface, and an older kernel, have the filter of ignoreHandshakes.
func (linux) RefuseHandshakes(fd int) syscall.Errno {
	const nowhere = 1<<31 - 1 // no interface has the last number
	if errno := (linux{}).SetOption(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, nowhere); errno != 0 {
		return ignoreHandshakes(fd)
	}
	return 0
}

// ignoreHandshakes attaches a socket filter (socket(7), SO_ATTACH_FILTER). The
// filter sees packets from the TCP header on (tcp_v4_rcv, tcp_v6_rcv) and drops
// those with SYN but without ACK (RFC 9293, section 3.1). Accepted sockets
// inherit the filter, which never matches their packets. A kernel may refuse it
// to a process with no_new_privs.
func ignoreHandshakes(fd int) syscall.Errno {
	const flags, syn, ack, all = 13, 0x02, 0x10, 1<<32 - 1
	program := [...]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: syn},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, errno := call6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		uintptr(unsafe.Pointer(&f)), unsafe.Sizeof(f), 0)
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
	_, errno := call6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR,
		uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return syscall.Errno(v)
}

func (linux) Recv(fd int, b []byte) (int, syscall.Errno) { return recv(fd, b, 0) }

func (linux) Peek(fd int, b []byte) (int, syscall.Errno) { return recv(fd, b, unix.MSG_PEEK) }

// Discard copies nothing on TCP (tcp(7), MSG_TRUNC). A unix socket ignores the flag and copies the bytes
// into b.
func (linux) Discard(fd int, b []byte) (int, syscall.Errno) { return recv(fd, b, unix.MSG_TRUNC) }

func recv(fd int, b []byte, flags uintptr) (int, syscall.Errno) {
	n, errno := call6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Send(fd int, b []byte) (int, syscall.Errno) {
	n, errno := call6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
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
	m, errno := call6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
		unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
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
	call6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&linger)), unsafe.Sizeof(linger), 0)
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

func (linux) Wait(poller int, events []unix.EpollEvent, timeout time.Duration) int {
	if timeout == 0 {
		// epoll_pwait, because arm64 has no epoll_wait.
		n, errno := call6(unix.SYS_EPOLL_PWAIT, uintptr(poller),
			uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
		return waited(n, errno)
	}
	if timeout > 0 && timeout%time.Millisecond != 0 {
		ts := unix.NsecToTimespec(int64(timeout))
		n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(poller),
			uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
		if errno == 0 || errno == unix.EINTR {
			return waited(n, errno)
		}
		// The kernel is older than 5.11, or a seccomp filter is.
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(poller),
		uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(milliseconds(timeout)), 0, 0)
	return waited(n, errno)
}

// waited returns the number of events; 0 after EINTR, so that the caller waits again.
func waited(n uintptr, errno syscall.Errno) int {
	if errno != 0 {
		return 0
	}
	return int(n)
}

// milliseconds is the timeout of epoll_wait(2): rounded up, -1 for a negative duration.
func milliseconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int((d + time.Millisecond - 1) / time.Millisecond)
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
