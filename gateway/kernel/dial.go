package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialTries is the number of attempts if a socket connects to itself.
const dialTries = 4

// Dial is [net.Dialer.DialContext], except that the result is never connected to
// itself, see [IsSelf]. If all attempts connect to themselves, nothing listens, and the
// error is ECONNREFUSED. Dial overwrites d.Control.
func Dial(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
	d.Control = ResetOnClose
	for range dialTries {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if !ConnectedToItself(conn) {
			if tcp, ok := conn.(*net.TCPConn); ok {
				err = tcp.SetLinger(-1)
			}
			return conn, err
		}
		conn.Close()
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", unix.ECONNREFUSED)}
}

// ResetOnClose is a [net.Dialer.Control] that makes the close of a TCP socket send a RST.
// Without it a socket that is connected to itself, of which package net replaces the first
// few, would remain in TIME_WAIT and keep the server from its port.
func ResetOnClose(network, _ string, raw syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var optionErr error
	err := raw.Control(func(fd uintptr) {
		optionErr = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	return errors.Join(err, os.NewSyscallError("setsockopt SO_LINGER", optionErr))
}

// ConnectedToItself reports whether both ends of a connection are one socket; see [IsSelf].
func ConnectedToItself(conn net.Conn) bool {
	type end interface{ AddrPort() netip.AddrPort }
	local, ok := conn.LocalAddr().(end)
	remote, ok2 := conn.RemoteAddr().(end)
	return ok && ok2 && IsSelf(local.AddrPort(), remote.AddrPort())
}
