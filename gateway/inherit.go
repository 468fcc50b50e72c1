package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"unproxy/gateway/config"
	"unproxy/gateway/forward"
	"unproxy/gateway/supervise"
)

// Adopt gives the listeners of c their inherited sockets. A listener systemd:NAME gets
// every socket of that name; any other gets the one that the process before this one
// handed over for it. Call it before [New].
//
// It returns the sockets that no listener takes; the caller closes them. The error
// joins a [*config.Problem] for each systemd:NAME without a usable socket.
func Adopt(c *config.Config, sockets []supervise.Socket) (left []supervise.Socket, err error) {
	a := adoption{sockets: slices.Clone(sockets)}
	for _, f := range c.Forwards {
		if f.Datagrams {
			a.datagrams(f)
			continue
		}
		var all []forward.Listener
		for _, l := range f.Listeners {
			all = append(all, a.listener(l)...)
		}
		f.Listeners = all
	}
	return a.sockets, errors.Join(a.found...)
}

// adoption holds the sockets that are not taken yet and the problems found.
type adoption struct {
	sockets []supervise.Socket
	found   []error
}

// listener returns l with its socket. If systemd gave the name to several sockets,
// it returns a listener for each.
func (a *adoption) listener(l forward.Listener) []forward.Listener {
	if l.Activation == "" {
		if s, ok := a.take(l.SocketName()); ok {
			l.Socket = listeningSocket(s)
		}
		return []forward.Listener{l}
	}
	var all []forward.Listener
	for s, ok := a.take(l.SocketName()); ok; s, ok = a.take(l.SocketName()) {
		if strings.HasPrefix(s.Path, "@") {
			s.Fault = "is in the abstract namespace, where no mode restricts who may connect"
			s.Hint = "ListenStream=/run/unproxy/NAME.sock in the .socket unit"
		}
		if s.Fault != "" {
			a.fail(fmt.Sprintf("the socket %q that systemd hands over %s", l.Activation, s.Fault), s.Hint)
		}
		one := l
		one.Socket = listeningSocket(s)
		one.Endpoint = one.Socket.Bound
		all = append(all, one)
	}
	if all == nil {
		a.missing(l)
		return []forward.Listener{l}
	}
	return all
}

// datagrams gives the UDP listeners of f their sockets, which come from the process
// before this one alone.
func (a *adoption) datagrams(f *forward.Forward) {
	for i := range f.Listeners {
		l := &f.Listeners[i]
		for s, ok := a.take(l.SharedName(0)); ok; s, ok = a.take(l.SharedName(len(l.Shared))) {
			l.Shared = append(l.Shared, forward.Socket{Name: s.Name, FD: s.FD})
		}
	}
}

func listeningSocket(s supervise.Socket) *forward.Socket {
	return &forward.Socket{Name: s.Name, FD: s.FD, Bound: forward.Endpoint{Addr: s.Addr, Path: s.Path}, Held: s.Held}
}

// fail records a problem.
func (a *adoption) fail(message, hint string) {
	a.found = append(a.found, config.NewProblem(message, hint))
}

// take removes the first socket of a name and returns it.
func (a *adoption) take(name string) (supervise.Socket, bool) {
	i := slices.IndexFunc(a.sockets, func(s supervise.Socket) bool { return s.Name == name })
	if i < 0 {
		return supervise.Socket{}, false
	}
	s := a.sockets[i]
	a.sockets = slices.Delete(a.sockets, i, i+1)
	return s, true
}

// missing adds the problem that systemd handed over no socket for l.
func (a *adoption) missing(l forward.Listener) {
	var names []string
	for _, s := range a.sockets {
		if name, ok := strings.CutPrefix(s.Name, forward.ActivationName("")); ok {
			names = append(names, name)
		}
	}
	what := fmt.Sprintf("listener %s: systemd hands over no socket of that name", l.Name)
	if len(names) == 0 {
		a.fail(what, "start it by a .socket unit with FileDescriptorName="+l.Activation+
			", not by its .service unit or from a shell")
		return
	}
	names = slices.Compact(names)
	hint := "it hands over " + few(names) + ": write systemd:" + names[0]
	if slices.Equal(names, []string{"unknown"}) || strings.HasSuffix(names[0], ".socket") {
		hint = "it hands over " + few(names) + ": write FileDescriptorName=" + l.Activation + " in the .socket unit"
	}
	a.fail(what, hint)
}

// few lists the first names and counts the others.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
