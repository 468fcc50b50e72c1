package datagram

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
	"unproxy/transparent"
)

// Kernel is every system call that the relay makes, but for those of the loops
// that it lives on. The real one is in this file and nowhere else; tests put a
// scripted one in its place.
//
// No call blocks. Any call that returns an errno may return EINTR.
type Kernel interface {
	transparent.Sockets

	// Socket opens a datagram socket of a family, AF_INET or AF_INET6, that is
	// non-blocking and close-on-exec.
	Socket(family int) (int, syscall.Errno)
	// Connect gives a socket the one address that it speaks with.
	Connect(fd int, to netip.AddrPort) syscall.Errno
	// LocalAddr returns the address that a socket is bound to.
	LocalAddr(fd int) (netip.AddrPort, syscall.Errno)
	// Receive is recvmmsg(2), and Send sendmmsg(2): the number of datagrams, at
	// least one, or the errno of the first.
	Receive(fd int, m []Message) (int, syscall.Errno)
	Send(fd int, m []Message) (int, syscall.Errno)
	// Read and Write are of one datagram of a connected socket; 0 bytes are a
	// datagram, too.
	Read(fd int, b []byte) (int, syscall.Errno)
	Write(fd int, b []byte) syscall.Errno
	// Batch prepares for up to n such reads, or writes of datagrams that are not
	// empty, at once; nil where that is not to be had.
	Batch(n int) kernel.Batch
	// Overflows is how many datagrams a socket had no room for so far. It
	// starts again at 0 after 2³² of them.
	Overflows(fd int) uint32
	// Close closes.
	Close(fd int)
}

// Message is a struct mmsghdr (recvmmsg(2)).
type Message struct {
	unix.Msghdr
	Length uint32 // of the datagram that was received
}

// linux is the real kernel: the engine's, and what only datagrams need. All calls
// return at once and go through RawSyscall: telling the scheduler of each would
// cost more than many of them.
type linux struct{ kernel.Kernel }

func (linux) Socket(family int) (int, syscall.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return int(fd), errno
}

func (linux) Receive(fd int, m []Message) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Send(fd int, m []Message) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Read(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (linux) Write(fd int, b []byte) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return errno
}

// The words of SO_MEMINFO, and which of them counts what sk_drops does
// (include/uapi/linux/sock_diag.h).
const (
	memoryWords = 9
	memoryDrops = 8
)

func (linux) Overflows(fd int) uint32 {
	var words [memoryWords]uint32
	n := uint32(unsafe.Sizeof(words))
	unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&words)), uintptr(unsafe.Pointer(&n)), 0)
	return words[memoryDrops]
}
