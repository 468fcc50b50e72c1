package engine

import (
	"slices"
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"

	"golang.org/x/sys/unix"
)

// socketOption is the level, name and value of a setsockopt(2).
type socketOption [3]int

// options are the socket options of a forward's TCP connections. A listener gets all of them, and
// accepted sockets inherit them (inet_csk_clone_lock). On a backend socket each costs a system
// call, and most connections end before the later ones matter, so these are set when they do.
type options struct {
	beforeConnect     []socketOption
	beforeSecondWrite []socketOption
	keepalive         []socketOption // when the connection is as old as Forward.Keepalive
}

// urgentInLine keeps urgent data in line: if the kernel extracted it, the stream would lose a byte
// (tcp(7), SO_OOBINLINE).
var urgentInLine = socketOption{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}

// keepUrgentInLine sets urgentInLine on a unix socket, which inherits nothing from its listener.
// Errors are ignored: a kernel that does not know the option there has no urgent data there either.
func keepUrgentInLine(k kernel.Kernel, fd int) {
	k.SetOption(fd, urgentInLine[0], urgentInLine[1], urgentInLine[2])
}

func optionsOf(f *forward.Forward) options {
	o := options{
		beforeConnect: []socketOption{urgentInLine},
		// Nagle's algorithm does not delay the first write, because no earlier data can be
		// unacknowledged (tcp_nagle_check).
		beforeSecondWrite: []socketOption{{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}},
	}
	if f.UserTimeout > 0 {
		timeout := int(f.UserTimeout.Milliseconds())
		o.beforeConnect = append(o.beforeConnect, socketOption{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, timeout})
	}
	if f.Keepalive > 0 {
		// TCP_KEEPIDLE comes last: the kernel subtracts the time that the connection has been idle,
		// so the first probe is sent at the same time as if the option had been set at the start
		// (tcp_sock_set_keepidle_locked).
		seconds := max(1, int(f.Keepalive.Seconds()))
		o.keepalive = []socketOption{
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds},
		}
	}
	return o
}

func (o *options) all() []socketOption {
	return slices.Concat(o.beforeConnect, o.beforeSecondWrite, o.keepalive)
}

// setOptions sets options in order, up to the first error.
func setOptions(k kernel.Kernel, fd int, list []socketOption) syscall.Errno {
	for _, o := range list {
		if errno := k.SetOption(fd, o[0], o[1], o[2]); errno != 0 {
			return errno
		}
	}
	return 0
}

// setBackendOptions sets options on the connected backend socket. Errors are ignored: the listener
// has accepted the same options.
func (s *session) setBackendOptions(l *loop, list []socketOption) {
	setOptions(l.kernel, int(s.sides[backend].fd), list)
}
