package datagram

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
	"unproxy/transparent"
)

// Kernel is every system call of the UDP data plane, except those of the event
// loops. The real one is in this file; tests script it.
//
// No call blocks. A call that returns an errno may return EINTR.
type Kernel interface {
	transparent.Sockets

	// Socket opens a datagram socket of family AF_INET or AF_INET6. It is
	// non-blocking and close-on-exec.
	Socket(family int) (int, syscall.Errno)
	// Connect sets the remote address of a socket.
	Connect(fd int, to netip.AddrPort) syscall.Errno
	// LocalAddr returns the address that a socket is bound to.
	LocalAddr(fd int) (netip.AddrPort, syscall.Errno)
	// Receive is recvmmsg(2), and Send is sendmmsg(2). They return the number of
	// datagrams, at least one, or the error of the first.
	Receive(fd int, m []Message) (int, syscall.Errno)
	Send(fd int, m []Message) (int, syscall.Errno)
	// Read and Write transfer one datagram of a connected socket. A datagram
	// may be empty.
	Read(fd int, b []byte) (int, syscall.Errno)
	Write(fd int, b []byte) syscall.Errno
	// Batch prepares for up to n reads, or writes of non-empty datagrams, at
	// once; nil if the system does not offer it.
	Batch(n int) kernel.Batch
	// Duplicate returns a second descriptor of the same open socket.
	Duplicate(fd int) (int, syscall.Errno)
	// Overflows returns the number of datagrams that the kernel dropped because
	// the receive queue was full. It wraps at 2³².
	Overflows(fd int) (uint32, syscall.Errno)
	// Close closes.
	Close(fd int)
}

// Message is a struct mmsghdr (recvmmsg(2)).
type Message struct {
	unix.Msghdr
	Length uint32 // of the received datagram
}

// linux is the real kernel: the shared calls, and those that only datagrams need.
// The calls use RawSyscall because they return at once: notifying the scheduler
// would cost more than many of them.
type linux struct{ kernel.Kernel }

func (linux) Socket(family int) (int, syscall.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family),
		unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return int(fd), errno
}

func (linux) Receive(fd int, m []Message) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Send(fd int, m []Message) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Read(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Write(fd int, b []byte) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return errno
}

// The length of SO_MEMINFO in words, and the index of sk_drops in it
// (include/uapi/linux/sock_diag.h).
const (
	memoryWords = 9
	memoryDrops = 8
)

func (linux) Overflows(fd int) (uint32, syscall.Errno) {
	var words [memoryWords]uint32
	n := uint32(unsafe.Sizeof(words))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&words)), uintptr(unsafe.Pointer(&n)), 0)
	return words[memoryDrops], errno
}
