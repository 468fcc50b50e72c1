package engine

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/transparent"
	"unproxy/transparent/toa"
)

// offerClient gives a client to the programs on this host, as for a connection of that client. Its address
// is never sent: the check ends before the last ACK of the handshake.
func offerClient(fd int, to netip.AddrPort, f toa.Format) syscall.Errno {
	client := transparent.TestClient(to.Addr().Is6())
	return toa.Set(toa.System{}, fd, toa.Record{Client: client, Format: f})
}

// checkPromise returns errUnpromised unless the host at the other end has answered the offer. It waits for
// the socket's lock as isPromisedFinally does.
func checkPromise(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var state toa.State
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
		state, errno = toa.Progress(toa.System{}, int(fd))
	})
	switch {
	case err != nil:
		return err
	case errno != 0:
		return errno
	case !state.Promised:
		return errUnpromised
	}
	return nil
}
