package engine

import (
	"slices"
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"

	"golang.org/x/sys/unix"
)

// option is an argument list of setsockopt(2): level, name, value.
type socketOption [3]int

// options are the options of the TCP sockets of a connection, on either side. A
// listener has all of them, and the sockets that it accepts inherit them
// (inet_csk_clone_lock). Towards a backend each one is a system call, and most
// connections are over before it matters: there they are set when it does.
type options struct {
	beforeConnect     []socketOption // before connect(2)
	beforeSecondWrite []socketOption // before the second write
	keepalive         []socketOption // once the connection is as old as Forward.Keepalive
}

// optionsOf returns a forward's options.
func optionsOf(f *forward.Forward) options {
	o := options{
		// Urgent data is kept in line: a relay that let the kernel take it out
		// would lose a byte of the stream (tcp(7), SO_OOBINLINE).
		beforeConnect: []socketOption{{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}},
		// The first write never waits: there is nothing on its way that could
		// still be acknowledged (tcp_nagle_check).
		beforeSecondWrite: []socketOption{{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}},
	}
	if f.UserTimeout > 0 {
		o.beforeConnect = append(o.beforeConnect, socketOption{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(f.UserTimeout.Milliseconds())})
	}
	if f.Keepalive > 0 {
		// TCP_KEEPIDLE comes last: what has passed of it counts, and the probe
		// is sent when it always was (tcp_sock_set_keepidle_locked).
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

// setOptions sets options one after the other, up to the first that fails.
func setOptions(k kernel.Kernel, fd int, list []socketOption) syscall.Errno {
	for _, o := range list {
		if errno := k.SetOption(fd, o[0], o[1], o[2]); errno != 0 {
			return errno
		}
	}
	return 0
}

// setLate sets options on the socket to the backend that are worth a system
// call only now. The listener's socket took the same ones.
func (s *session) setBackendOptions(l *loop, list []socketOption) {
	setOptions(l.kernel, int(s.sides[backend].fd), list)
}
