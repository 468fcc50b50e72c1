package doctor

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/transparent/toa"
)

// programs implements [Host.Programs].
func programs() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 1)
	return setClient(fd, toa.Record{Client: client})
}

func setClient(fd int, r toa.Record) error {
	if errno := toa.Set(toa.System{}, fd, r); errno != 0 {
		return os.NewSyscallError("setsockopt of the client", errno)
	}
	return nil
}

// promise returns errUnpromised unless the backend's host has answered the offer of a connection. The
// kernel sets the state of the connection before it reads the promise, both with the socket locked: setting
// an option waits for the lock.
func promise(c syscall.Conn, a Attempt) error {
	if a.Format != toa.Negotiated {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var state toa.State
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
		state, errno = toa.Progress(toa.System{}, int(fd))
	}); err != nil {
		return err
	}
	switch {
	case errno != 0:
		return os.NewSyscallError("getsockopt of the client", errno)
	case !state.Promised:
		return errUnpromised
	}
	return nil
}

// localOf returns this host's end of a connection.
func localOf(c net.Conn) netip.AddrPort {
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
}
