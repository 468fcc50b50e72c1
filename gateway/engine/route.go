package engine

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// Route leads from one listener to its backends. It is safe for concurrent use: only the addresses
// of names change.
type Route struct {
	Listener *forward.Listener
	Forward  *forward.Forward
	// Bound is the address that the listener is bound to. It is set before the first connection is
	// accepted.
	Bound forward.Endpoint

	// Backends is what is known about the forward's backends; nil if nothing is.
	Backends *Backends

	names []*name // by backend; nil for an address
}

// Caller is the client that a backend is chosen for.
type Caller struct {
	// Client is the client's address; invalid if it has none.
	Client netip.AddrPort
	// Destination is the destination that the header names, or that the connection was sent to;
	// invalid if there is none.
	Destination netip.AddrPort
	// Spoof means that the backend must see the client's address.
	Spoof bool
}

func newRoute(f *forwardState, l *forward.Listener, names *resolver) *Route {
	r := &Route{Listener: l, Forward: f.Forward, Backends: f.backends}
	for _, b := range l.Backends {
		n := names.name(b.Host)
		r.names = append(r.names, n)
		f.backends.addName(n, b.Port)
	}
	return r
}

// Targets appends to list the backends for a caller in the order in which to try them: the
// operator's order, but those of the client's address family first. If the caller spoofs, backends
// of the other family are included only if the policy for a family mismatch allows them. It
// allocates only to grow list. [Backends.Prefer] then moves those that are down to the end.
func (r *Route) Targets(list []forward.Endpoint, c Caller) []forward.Endpoint {
	all := list
	for i := range r.Listener.Backends {
		b := &r.Listener.Backends[i]
		switch {
		case b.FromHeader:
			if c.Destination.IsValid() && r.denyReason(c.Destination) == "" {
				all = append(all, forward.Endpoint{Addr: c.Destination})
			}
		case b.Host != "":
			for _, a := range r.resolved(i) {
				all = append(all, forward.Endpoint{Addr: netip.AddrPortFrom(a, b.Port)})
			}
		default:
			all = append(all, b.Endpoint)
		}
	}
	matching := len(list) // those of the client's family, moved to the front
	for i := matching; i < len(all); i++ {
		e := all[i]
		if !c.matches(e) {
			continue
		}
		copy(all[matching+1:i+1], all[matching:i])
		all[matching] = e
		matching++
	}
	if c.Spoof && r.Forward.Source.FamilyMismatch == transparent.Reject {
		return all[:matching]
	}
	return all
}

// resolved returns the addresses of the name of the i-th backend.
func (r *Route) resolved(i int) []netip.Addr {
	if i >= len(r.names) {
		return nil // a route without a resolver
	}
	return *r.names[i].addresses.Load()
}

// matches reports whether e has the client's address family. A unix socket matches every client
// whose address the backend need not see.
func (c Caller) matches(e forward.Endpoint) bool {
	if e.IsUnix() {
		return !c.Spoof
	}
	client := c.Client.Addr()
	return !client.IsValid() || client.Is4() == e.Addr.Addr().Is4()
}

// denyReason returns why the backend "header" may not connect to a destination, or "".
func (r *Route) denyReason(to netip.AddrPort) string {
	allowed := r.Forward.AllowDestination
	switch {
	case allowed == nil || !allowed.Contains(to.Addr()):
		return "destination not allowed"
	case to.Addr().IsUnspecified() || to.Port() == 0:
		return "destination address or port is zero" // connect(2) takes 0.0.0.0 as this host
	case r.receives(to):
		return "destination is this listener"
	case r.isOwnListener(to):
		return "destination is another listener of this gateway"
	}
	return transparent.Embeds(to.Addr(), func(v4 netip.Addr) bool {
		at := netip.AddrPortFrom(v4, to.Port())
		return r.receives(at) || r.isOwnListener(at) || r.Forward.Source.Denies(v4) && !allowed.Contains(v4)
	})
}

// receives reports whether packets to a reach the listener without a packet filter.
func (r *Route) receives(a netip.AddrPort) bool {
	return r.Listener.Own(r.Bound.Addr, r.Forward.Datagrams).Receives(a, r.Forward.Source.Own)
}

// isOwnListener reports whether packets to a reach any listener of this process without a packet
// filter.
func (r *Route) isOwnListener(a netip.AddrPort) bool {
	return r.Forward.OwnListeners.Receive(a, r.Forward.Datagrams, r.Forward.Source.Own)
}

// NoTarget returns the outcome, party and reason of a connection for which Targets returned
// nothing.
func (r *Route) NoTarget(c Caller) (record.Outcome, record.Party, string) {
	for i, b := range r.Listener.Backends {
		switch {
		case b.FromHeader && !c.Destination.IsValid():
			return record.NoAddress, record.Gateway, "no destination address"
		case b.FromHeader && r.denyReason(c.Destination) != "":
			return record.DestinationDenied, record.Gateway, r.denyReason(c.Destination)
		case b.Host != "" && len(r.resolved(i)) == 0:
			return record.BackendUnreachable, record.Gateway, "the backend's name does not resolve"
		}
	}
	return record.FamilyMismatch, record.Gateway, "no backend has the client's address family"
}

// DialOutcome returns the outcome of a connection whose connect failed with an error of bind(2) or
// connect(2). fixedPort means that the socket was bound to the client's port.
func DialOutcome(errno syscall.Errno, fixedPort bool) (record.Outcome, record.Party) {
	switch errno {
	case unix.ECONNREFUSED, unix.ECONNRESET:
		return record.BackendRefused, record.Backend
	case unix.EAGAIN: // a unix socket's queue is full
		return record.Limit, record.Backend
	case unix.ETIMEDOUT:
		return record.ConnectTimeout, record.Timeout
	case unix.EADDRINUSE, unix.EADDRNOTAVAIL:
		if fixedPort {
			return record.SourcePortBusy, record.Gateway
		}
	case unix.EPERM, unix.EACCES:
		return record.Permission, record.Gateway
	}
	if lacksResources(errno) {
		return record.Limit, record.Gateway
	}
	return record.BackendUnreachable, record.Gateway
}

// lacksResources reports whether an error means that the process or the host has no descriptor, no
// memory or, for epoll_ctl(2), no watches left.
func lacksResources(errno syscall.Errno) bool {
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ENOSPC:
		return true
	}
	return false
}
