// Package errnos lists the errors of system calls, for tests in which each call fails with each of
// them: those of the manual pages, and some that a seccomp filter, a security module or a defect returns.
package errnos

import (
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// The kinds of errors.
var (
	Transient = []syscall.Errno{unix.EAGAIN, unix.EINTR}
	Shortage  = []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ENOSPC}
	Denied    = []syscall.Errno{unix.EPERM, unix.EACCES}
	// Network are the errors of a connected socket (tcp(7), udp(7), ip(7), icmp_err_convert).
	Network = []syscall.Errno{unix.ECONNRESET, unix.EPIPE, unix.ETIMEDOUT, unix.ECONNREFUSED, unix.ECONNABORTED,
		unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN, unix.ENONET, unix.EPROTO,
		unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EMSGSIZE, unix.EACCES, unix.ENOTCONN}
	// Unlisted are in no manual page.
	Unlisted = []syscall.Errno{unix.EPERM, unix.ENOSYS, unix.EIO}

	badCall = []syscall.Errno{unix.EBADF, unix.EFAULT, unix.EINVAL, unix.ENOTSOCK}
)

// The errors of the calls.
var (
	Recv = Of(Transient, badCall, Unlisted, Network, list(unix.ENOMEM, unix.ENOBUFS))
	Send = Of(Recv, list(unix.EALREADY, unix.EDESTADDRREQ, unix.EISCONN))
	Read = Of(Transient, badCall, list(unix.EIO, unix.EISDIR))

	Socket = Of(badCall, Unlisted, Shortage[:4], Denied, list(unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT))
	Option = Of(badCall, Unlisted, list(unix.ENOPROTOOPT, unix.ENOMEM, unix.EINTR))
	Bind   = Of(badCall, Unlisted, Denied, list(unix.EADDRNOTAVAIL, unix.EAGAIN, unix.EINTR, unix.ENOMEM))
	// BindPath are those of bind(2) to a path.
	BindPath = list(unix.EADDRINUSE, unix.EACCES, unix.ELOOP, unix.ENAMETOOLONG, unix.ENOENT, unix.ENOMEM,
		unix.ENOTDIR, unix.EROFS, unix.EINVAL)
	Listen  = Of(badCall, Unlisted, list(unix.EADDRINUSE, unix.EOPNOTSUPP))
	Connect = Of(Bind, Network, list(unix.EAFNOSUPPORT, unix.EALREADY, unix.EINPROGRESS, unix.EISCONN, unix.EPROTOTYPE,
		unix.EADDRINUSE))
	// ConnectPath are those of connect(2) to a path.
	ConnectPath = Of(Bind, BindPath, list(unix.ECONNREFUSED, unix.EPROTOTYPE))
	Accept      = Of(Transient, badCall, Unlisted, Shortage[:4], Network)
	// Name are those of getsockname(2).
	Name = Of(badCall, Unlisted, list(unix.ENOBUFS))
	// Error are those that SO_ERROR returns, and those of getsockopt(2).
	Error    = Of(Network, badCall)
	Shutdown = Of(badCall, Unlisted, Denied, list(unix.ENOTCONN, unix.EINTR, unix.ENOMEM, unix.ENOBUFS))
	// Duplicate are those of fcntl(2).
	Duplicate = Of(Unlisted, list(unix.EBADF, unix.EINVAL, unix.EMFILE))

	Pipe   = Of(Shortage[:4], Unlisted, list(unix.EFAULT, unix.EINVAL, unix.ENOPKG))
	Splice = Of(Recv, list(unix.ESPIPE))
	// Epoll are those of epoll_ctl(2), Poller of epoll_create1(2), and Eventfd of eventfd(2).
	Epoll = Of(Unlisted, list(unix.EBADF, unix.EEXIST, unix.EINVAL, unix.ELOOP, unix.ENOENT, unix.ENOMEM,
		unix.ENOSPC))
	Poller  = Of(Unlisted, Shortage[:4], list(unix.EINVAL))
	Eventfd = Of(Poller, list(unix.ENODEV))
	// Batch are those of io_setup(2).
	Batch = list(unix.EAGAIN, unix.EFAULT, unix.EINVAL, unix.ENOMEM, unix.ENOSYS)
)

func list(all ...syscall.Errno) []syscall.Errno { return all }

// Of returns all errors of some lists.
func Of(lists ...[]syscall.Errno) []syscall.Errno {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

// Kinds returns one error of each kind in a list.
func Kinds(all []syscall.Errno) (few []syscall.Errno) {
	left := slices.Clone(all)
	for _, kind := range [][]syscall.Errno{Transient, Shortage, Denied, Network, all} {
		in := func(e syscall.Errno) bool { return slices.Contains(kind, e) }
		if i := slices.IndexFunc(left, in); i >= 0 {
			few = append(few, left[i])
		}
		left = slices.DeleteFunc(left, in)
	}
	return few
}
