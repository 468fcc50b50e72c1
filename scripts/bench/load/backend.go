package load

import (
	"net/netip"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// served is a connection of the backend. The zero value waits for the first byte.
type served struct {
	ask     byte
	pending []byte // the part of a response that is not sent yet; the buffer is reused
}

// backend serves connections on one thread.
type backend struct {
	poll     *poll
	listener int32
	conns    []served // by descriptor
	in, out  []byte
}

// Serve runs the backend: it listens on an IPv4 address and does on each connection what
// its first byte selects. It locks the calling thread and returns only errors of its
// sockets.
func Serve(at netip.AddrPort) error {
	debug.SetGCPercent(-1) // a collection would wait for this thread
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	p, err := newPoll()
	if err != nil {
		return err
	}
	fd, err := listen(at)
	if err != nil {
		return err
	}
	b := &backend{poll: p, listener: fd, conns: make([]served, limit.Cur), in: make([]byte, bulk), out: make([]byte, bulk)}
	if err := p.control(unix.EPOLL_CTL_ADD, int(fd), unix.EPOLLIN, fd); err != nil {
		return err
	}
	for {
		events, err := p.wait(-1)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Fd == b.listener {
				b.accept()
				continue
			}
			if !b.serve(e.Fd, e.Events) {
				closeDescriptor(e.Fd)
			}
		}
	}
}

func listen(at netip.AddrPort) (int32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := setOption(int32(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		return -1, os.NewSyscallError("bind", err)
	}
	return int32(fd), os.NewSyscallError("listen", unix.Listen(fd, 65535))
}

// accept accepts the waiting connections while descriptors are available.
func (b *backend) accept() {
	for {
		r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(b.listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0,
			0)
		if errno != 0 {
			return
		}
		fd := int32(r)
		if setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY) != nil ||
			b.poll.control(unix.EPOLL_CTL_ADD, int(fd), unix.EPOLLIN, fd) != nil {
			closeDescriptor(fd)
			continue
		}
		b.conns[fd] = served{pending: b.conns[fd].pending[:0]}
	}
}

// serve handles the events of a connection and reports whether it continues.
func (b *backend) serve(fd int32, events uint32) bool {
	c := &b.conns[fd]
	if events&unix.EPOLLOUT != 0 && !b.write(fd, c) {
		return false
	}
	if events&^unix.EPOLLOUT == 0 {
		return true
	}
	n, errno := receive(fd, b.in)
	if errno == unix.EAGAIN {
		return true
	}
	if n == 0 {
		return false
	}
	if c.ask == 0 {
		c.ask = b.in[0]
		if c.ask == askDown || c.ask == askBoth {
			return b.poll.control(unix.EPOLL_CTL_MOD, int(fd), unix.EPOLLIN|unix.EPOLLOUT, fd) == nil
		}
	}
	if c.ask == askEcho {
		return b.echo(fd, c, b.in[:n])
	}
	return true
}

// write sends pending data, or data without end.
func (b *backend) write(fd int32, c *served) bool {
	if c.ask == askEcho {
		return b.echo(fd, c, c.pending)
	}
	_, errno := send(fd, b.out)
	return errno == 0 || errno == unix.EAGAIN
}

// echo sends bytes back. While the kernel does not accept all of them, nothing more is
// read.
func (b *backend) echo(fd int32, c *served, answer []byte) bool {
	n, errno := send(fd, answer)
	if errno != 0 && errno != unix.EAGAIN {
		return false
	}
	waited := len(c.pending) > 0
	c.pending = append(c.pending[:0], answer[n:]...)
	waits := len(c.pending) > 0
	if waits == waited {
		return true
	}
	events := uint32(unix.EPOLLIN)
	if waits {
		events = unix.EPOLLOUT
	}
	return b.poll.control(unix.EPOLL_CTL_MOD, int(fd), events, fd) == nil
}
