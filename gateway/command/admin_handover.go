package command

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/admin"
	"unproxy/gateway/supervise"
)

// The admin endpoint is handed over with the listeners: whoever asks finds the
// process that serves, and the address is never taken twice.

// adminSocketName is what its socket is handed over as.
func (s *server) adminSocketName() string { return "admin " + s.admin.address.String() }

// listenAdmin returns the endpoint's listener, from the process before or a new
// one.
func (s *server) listenAdmin() (l net.Listener, err error) {
	if in, ok := s.takeSpare(s.adminSocketName()); ok {
		f := os.NewFile(uintptr(in.FD), in.Name)
		defer f.Close()
		l, err = net.FileListener(f)
		if err != nil {
			err = fmt.Errorf("take over the admin endpoint on %s: %w", s.admin.address, err)
		}
	} else {
		l, err = admin.Listen(s.admin.address)
	}
	s.adminListener = l
	return l, err
}

// ownAdminSocket has the file of a unix socket removed with the listener, or
// left to another process.
func (s *server) ownAdminSocket(own bool) {
	if u, ok := s.adminListener.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(own)
	}
}

// adminSocket returns a copy of the endpoint's socket, if there is one.
func (s *server) adminSocket() (all []supervise.Socket, err error) {
	if s.adminListener == nil {
		return nil, nil
	}
	raw, err := s.adminListener.(syscall.Conn).SyscallConn() // TCP and unix listeners have it
	if err != nil {
		return nil, fmt.Errorf("hand over the admin endpoint: %w", err)
	}
	var fd int
	var failed error
	err = raw.Control(func(of uintptr) { fd, failed = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil && failed != nil {
		err = os.NewSyscallError("fcntl", failed)
	}
	if err != nil {
		return nil, fmt.Errorf("hand over the admin endpoint: %w", err)
	}
	return []supervise.Socket{{Name: s.adminSocketName(), FD: fd}}, nil
}
