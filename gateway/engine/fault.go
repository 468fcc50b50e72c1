package engine

import (
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// brokenOutcome returns the outcome of an established connection one of whose sockets returned an
// error. An error that the network cannot cause says nothing about the party at the other end.
func brokenOutcome(errno syscall.Errno, who record.Party) (record.Outcome, record.Party) {
	switch {
	case errno == unix.ETIMEDOUT:
		return record.Reset, record.Timeout
	case lacksResources(errno):
		return record.Limit, record.Gateway
	case !FromNetwork(errno):
		return record.Internal, record.Gateway
	}
	return record.Reset, who
}

// LocalOutcome is [DialOutcome] for an error of a call that does not involve the backend: socket(2),
// setsockopt(2), bind(2) and the like. Without an outcome of its own, it is a fault of the host.
func LocalOutcome(errno syscall.Errno, fixedPort bool) (record.Outcome, record.Party) {
	switch errno {
	case unix.EPERM, unix.EACCES, unix.EADDRINUSE, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT:
		return DialOutcome(errno, fixedPort)
	}
	if lacksResources(errno) {
		return DialOutcome(errno, fixedPort)
	}
	return record.Internal, record.Gateway
}

// FromNetwork reports whether an error of a connected socket can come from the other end or from the
// network in between: a RST, a timeout, or an ICMP message (icmp_err_convert, icmpv6_err_convert).
func FromNetwork(errno syscall.Errno) bool {
	switch errno {
	case unix.ECONNRESET, unix.EPIPE, unix.ECONNABORTED, unix.ECONNREFUSED, unix.ENOTCONN, unix.ETIMEDOUT,
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN, unix.ENONET, unix.ENETRESET,
		unix.EPROTO, unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EMSGSIZE, unix.EACCES:
		return true
	}
	return false
}
