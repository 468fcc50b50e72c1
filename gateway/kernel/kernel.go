// Package kernel is the interface between the data plane and the operating system:
// the system calls that the engine and the UDP relay share, and their implementation.
//
// kernel.go holds the interface, linux.go its single calls, batch.go those that move
// the bytes of many sockets at once, and sockaddr.go the conversion of addresses.
package kernel

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/transparent"
	"unproxy/transparent/toa"
)

// Kernel is every system call of the TCP data plane. [System] makes them; tests
// script them.
//
// No call blocks except Wait with a timeout. A call that returns an errno may
// return EINTR. Descriptors are non-blocking and close-on-exec. An
// implementation belongs to the goroutine that uses it, except for Wake.
type Kernel interface {
	transparent.Sockets
	toa.Sockets

	// Now returns a monotonic time in nanoseconds.
	Now() int64

	// Socket opens a stream socket of family AF_INET, AF_INET6 or AF_UNIX.
	Socket(family int) (int, syscall.Errno)
	// BindPath binds a unix socket.
	BindPath(fd int, path string) syscall.Errno
	// Listen starts listening. The kernel limits backlog to
	// net.core.somaxconn.
	Listen(fd, backlog int) syscall.Errno
	// RefuseHandshakes makes a TCP listener refuse new handshakes, or ignore
	// them where that is all that the kernel permits. Handshakes in progress
	// complete, and connections are not affected.
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
	// Peek is Recv, except that the bytes stay in the socket.
	Peek(fd int, b []byte) (int, syscall.Errno)
	// Discard takes bytes out of a socket that Peek has returned in b. What it leaves in b is
	// undefined.
	Discard(fd int, b []byte) (int, syscall.Errno)
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
	// Wait collects events. A negative timeout waits without limit. Before Linux 5.11 the
	// timeout is rounded up to milliseconds.
	Wait(poller int, events []unix.EpollEvent, timeout time.Duration) int
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
