package engine

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// Route is the way from one listener to its backends. It never changes, but
// the addresses behind names do; it is safe for concurrent use.
type Route struct {
	Listener *forward.Listener
	Forward  *forward.Forward
	// Bound is where the listener is, once it is open. It is set before anybody
	// is served.
	Bound forward.Endpoint

	names []*name // for each backend; nil for those that have none
}

// Caller is on whose behalf a backend is looked for.
type Caller struct {
	// Client is who is to be served; invalid for one without an address.
	Client netip.AddrPort
	// Destination is where the header says that it wanted to go; invalid
	// where no header does.
	Destination netip.AddrPort
	// Spoof says that the backend is to see the client's address.
	Spoof bool
}

// NewRoute returns the way from a listener of f to its backends. Those that are
// names have no addresses: the engine's own routes know them.
func NewRoute(f *forward.Forward, l *forward.Listener) *Route {
	return newRoute(f, l, newResolver(nil, nil))
}

func newRoute(f *forward.Forward, l *forward.Listener, names *resolver) *Route {
	r := &Route{Listener: l, Forward: f}
	for _, b := range l.Backends {
		r.names = append(r.names, names.name(b.Host))
	}
	return r
}

// Targets appends to list where a caller may be led, in the order in which to
// try: as the operator wrote them, but those of the client's family first. In
// transparent mode the others come only where the policy has a way for them.
// It allocates only where list has no room.
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
			for _, a := range *r.names[i].addresses.Load() {
				all = append(all, forward.Endpoint{Addr: netip.AddrPortFrom(a, b.Port)})
			}
		default:
			all = append(all, b.Endpoint)
		}
	}
	matching := len(list) // of the client's family, moved to the front
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

// suits reports whether e is of the client's family. A unix socket suits every
// client that need not be seen there.
func (c Caller) matches(e forward.Endpoint) bool {
	if e.IsUnix() {
		return !c.Spoof
	}
	client := c.Client.Addr()
	return !client.IsValid() || client.Is4() == e.Addr.Addr().Is4()
}

// forbidden returns why the backend "header" may not lead to a destination; "" if
// it may.
func (r *Route) denyReason(to netip.AddrPort) string {
	allowed := r.Forward.AllowDestination
	switch {
	case allowed == nil || !allowed.Contains(to.Addr()):
		return "destination not allowed"
	case to.Addr().IsUnspecified() || to.Port() == 0:
		return "destination address or port is zero" // connect(2) takes 0.0.0.0 for this host
	case r.receives(to):
		return "destination is this listener"
	}
	return ""
}

// takes reports whether what is sent to a arrives at the listener by itself,
// without a packet filter.
func (r *Route) receives(a netip.AddrPort) bool {
	at := r.Bound.Addr
	if !at.IsValid() || a.Port() != at.Port() {
		return false
	}
	if !at.Addr().IsUnspecified() {
		return a.Addr() == at.Addr()
	}
	own := r.Forward.Source.Own
	return (r.Listener.DualStack || a.Addr().Is4() == at.Addr().Is4()) &&
		(a.Addr().IsLoopback() || own != nil && own.Contains(a.Addr()))
}

// NoTarget says why there was nothing to dial.
func (r *Route) NoTarget(c Caller) (record.Outcome, record.Party, string) {
	for i, b := range r.Listener.Backends {
		switch {
		case b.FromHeader && !c.Destination.IsValid():
			return record.NoAddress, record.Gateway, "no destination address"
		case b.FromHeader && r.denyReason(c.Destination) != "":
			return record.DestinationDenied, record.Gateway, r.denyReason(c.Destination)
		case b.Host != "" && len(*r.names[i].addresses.Load()) == 0:
			return record.BackendUnreachable, record.Gateway, "the backend's name does not resolve"
		}
	}
	return record.FamilyMismatch, record.Gateway, "no backend has the client's address family"
}

// DialOutcome says what it means that a backend could not be connected to, by
// the errors of bind(2) and connect(2); bound says that it was tried from the
// client's address.
func DialOutcome(errno syscall.Errno, bound bool) (record.Outcome, record.Party) {
	switch errno {
	case unix.ECONNREFUSED, unix.ECONNRESET, unix.EAGAIN: // EAGAIN: a unix socket's queue is full
		return record.BackendRefused, record.Backend
	case unix.ETIMEDOUT:
		return record.ConnectTimeout, record.Timeout
	case unix.EADDRINUSE, unix.EADDRNOTAVAIL:
		if bound {
			return record.SourcePortBusy, record.Gateway
		}
	case unix.EPERM, unix.EACCES:
		return record.Permission, record.Gateway
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		return record.Limit, record.Gateway
	}
	return record.BackendUnreachable, record.Gateway
}
