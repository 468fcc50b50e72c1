package load

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poll is an epoll instance. The caller chooses the number in its events.
//
// System calls are raw, also those that wait: entering them through the runtime costs more
// than a tenth of a short one. No other goroutine needs this thread.
type poll struct {
	fd     int
	events [512]unix.EpollEvent
}

func newPoll() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &poll{fd: fd}, nil
}

// wait waits for events, without a limit if milliseconds is -1.
func (p *poll) wait(milliseconds int) ([]unix.EpollEvent, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])),
		uintptr(len(p.events)), uintptr(milliseconds), 0, 0)
	if errno == unix.EINTR {
		return nil, nil
	}
	if errno != 0 {
		return nil, os.NewSyscallError("epoll_pwait", errno)
	}
	return p.events[:n], nil
}

// control calls epoll_ctl(2) with the number for the descriptor's events.
func (p *poll) control(op, fd int, events uint32, number int32) error {
	e := unix.EpollEvent{Events: events, Fd: number}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.fd), uintptr(op), uintptr(fd),
		uintptr(unsafe.Pointer(&e)), 0, 0)
	if errno != 0 {
		return fmt.Errorf("epoll_ctl of descriptor %d: %w", fd, errno)
	}
	return nil
}

// receive calls recv(2). n is 0 at the end of the stream and if err is set.
func receive(fd int32, b []byte) (n int, err syscall.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0,
		0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// send calls send(2) with MSG_NOSIGNAL. n is 0 if err is set.
func send(fd int32, b []byte) (n int, err syscall.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

func closeDescriptor(fd int32) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// setOption sets an option of a socket to 1.
func setOption(fd int32, level, option int) error {
	one := int32(1)
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&one)), 4, 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// connectFrom opens a TCP connection from an address of this host. The kernel chooses the
// port in connect(2), when it knows the destination, so each pair of addresses can use all
// ports.
func connectFrom(source, to *unix.RawSockaddrInet4) (fd int32, err error) {
	r, _, errno := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("socket", errno)
	}
	fd = int32(r)
	defer func() {
		if err != nil {
			closeDescriptor(fd)
		}
	}()
	if err := setOption(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT); err != nil {
		return -1, err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_BIND, r, uintptr(unsafe.Pointer(source)),
		unix.SizeofSockaddrInet4); errno != 0 {
		return -1, os.NewSyscallError("bind", errno)
	}
	_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, r, uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
	if errno != 0 && !errors.Is(errno, unix.EINPROGRESS) {
		return -1, os.NewSyscallError("connect", errno)
	}
	return fd, nil
}
