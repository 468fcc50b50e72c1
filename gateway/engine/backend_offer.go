package engine

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/transparent"
	"unproxy/transparent/toa"
)

// offerOwn makes an offer to a backend as for a client, and resets the connection after the answer.
// Without a promise the error is errUnpromised. The client's address is not sent, and the backend's program
// sees nothing.
func offerOwn(ctx context.Context, e forward.Endpoint, f *forward.Forward) error {
	is4 := e.Addr.Addr().Is4()
	client := toa.Record{Client: transparent.TestClient(!is4), Format: f.TOA.Format}
	d := net.Dialer{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		if err := prepareCheck(raw, f.Mark); err != nil {
			return err
		}
		var errno syscall.Errno
		err := raw.Control(func(fd uintptr) {
			if errno = bindOwn(transparent.System{}, int(fd), f.TOA.Source(is4, 0)); errno == 0 {
				errno = toa.Set(toa.System{}, int(fd), client)
			}
		})
		if errno != 0 {
			return errno
		}
		return err
	}}
	conn, err := d.DialContext(ctx, "tcp", e.Addr.String())
	if err != nil {
		return reason(err)
	}
	tcp := conn.(*net.TCPConn)
	defer tcp.Close()
	tcp.SetLinger(0) // a RST
	if client.Format != toa.Negotiated {
		return nil
	}
	return promiseOf(tcp)
}

// promiseOf returns errUnpromised unless the host at the other end has answered the offer. It waits for
// the socket's lock as isPromisedFinally does.
func promiseOf(c syscall.Conn) error {
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

// bindOwn binds a socket to an address of this host, unless that is invalid. The kernel chooses the port
// at connect(2), when the backend is known (IP_BIND_ADDRESS_NO_PORT, ip(7)).
func bindOwn(k transparent.Sockets, fd int, a netip.Addr) syscall.Errno {
	if !a.IsValid() {
		return 0
	}
	if errno := k.SetOption(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); errno != 0 {
		return errno
	}
	return k.Bind(fd, netip.AddrPortFrom(a, 0))
}
