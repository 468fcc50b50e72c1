package probe

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
)

// dialTries is how often a connection is tried that ends at its own socket.
const dialTries = 4

// dial connects to the gateway. Without a listener on a port that the kernel assigns
// to outgoing connections, a socket can be connected to itself, and its own bytes
// would look like an answer. Such a socket is replaced; if that goes on, the
// connection is refused, because nothing listens.
func (p *plan) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: p.timeout, Control: resetOnClose}
	for range dialTries {
		conn, err := dialer.DialContext(ctx, p.network, p.address)
		if err != nil {
			return nil, err
		}
		if !isSelf(conn) {
			if tcp, ok := conn.(*net.TCPConn); ok {
				err = tcp.SetLinger(-1)
			}
			return conn, err
		}
		conn.Close()
	}
	return nil, &net.OpError{Op: "dial", Net: p.network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// resetOnClose makes the close of a TCP socket send a RST. Without it a socket that is
// connected to itself, of which package net replaces the first few, would remain in
// TIME_WAIT and keep the gateway from its port.
func resetOnClose(network, _ string, raw syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var optionErr error
	err := raw.Control(func(fd uintptr) {
		optionErr = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
	return errors.Join(err, os.NewSyscallError("setsockopt SO_LINGER", optionErr))
}

// isSelf reports whether a connection has the same address at both ends.
func isSelf(conn net.Conn) bool {
	local := addrPort(conn.LocalAddr())
	return local.IsValid() && local == addrPort(conn.RemoteAddr())
}
