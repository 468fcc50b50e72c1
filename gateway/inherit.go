package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"unproxy/gateway/config"
	"unproxy/gateway/engine"
)

// Inherited is a socket that was open when the process started.
type Inherited struct {
	engine.Socket
	// Fault completes "the socket NAME ..." where it is not a listening stream
	// socket, and Hint says what to do about it. Then only Name and FD are
	// valid.
	Fault, Hint string
}

// Adopt gives the listeners of c sockets that were open when the process started:
// a listener of systemd's all those of its name, any other one the socket that
// the process before this one handed over for it. Call it before [New].
//
// It returns the sockets that no listener has; the caller closes them. The error
// joins a [*config.Problem] for each listener without the socket that it needs.
func Adopt(c *config.Config, sockets []Inherited) (left []Inherited, err error) {
	a := adoption{sockets: slices.Clone(sockets)}
	for _, f := range c.Forwards {
		if f.Datagrams {
			continue // only stream sockets are handed over
		}
		var all []engine.Listener
		for _, l := range f.Listeners {
			all = append(all, a.listener(l)...)
		}
		f.Listeners = all
	}
	return a.sockets, errors.Join(a.found...)
}

// adoption holds the sockets that no listener has yet, and the problems.
type adoption struct {
	sockets []Inherited
	found   []error
}

// listener returns l with its socket. Where systemd gave its name to several
// sockets it becomes several listeners.
func (a *adoption) listener(l engine.Listener) []engine.Listener {
	if l.Activation == "" {
		if s, ok := a.take(l.SocketName()); ok {
			l.Socket = &s.Socket
		}
		return []engine.Listener{l}
	}
	var all []engine.Listener
	for s, ok := a.take(l.SocketName()); ok; s, ok = a.take(l.SocketName()) {
		if strings.HasPrefix(s.Bound.Path, "@") {
			s.Fault = "is in the abstract namespace, where no mode restricts who may connect"
			s.Hint = "ListenStream=/run/unproxy/NAME.sock in the .socket unit"
		}
		if s.Fault != "" {
			a.fail(fmt.Sprintf("the socket %q that systemd hands over %s", l.Activation, s.Fault), s.Hint)
		}
		one := l
		one.Socket, one.Endpoint = &s.Socket, s.Bound
		all = append(all, one)
	}
	if all == nil {
		a.missing(l)
		return []engine.Listener{l}
	}
	return all
}

// fail records a problem.
func (a *adoption) fail(message, hint string) {
	a.found = append(a.found, config.NewProblem(message, hint))
}

// take removes the first socket of a name and returns it.
func (a *adoption) take(name string) (Inherited, bool) {
	i := slices.IndexFunc(a.sockets, func(s Inherited) bool { return s.Name == name })
	if i < 0 {
		return Inherited{}, false
	}
	s := a.sockets[i]
	a.sockets = slices.Delete(a.sockets, i, i+1)
	return s, true
}

// missing records that systemd handed over no socket for l.
func (a *adoption) missing(l engine.Listener) {
	var names []string
	for _, s := range a.sockets {
		if name, ok := strings.CutPrefix(s.Name, engine.ActivationName("")); ok {
			names = append(names, name)
		}
	}
	what := fmt.Sprintf("listener %s: systemd hands over no socket of that name", l.Name)
	if len(names) == 0 {
		a.fail(what,
			"start it by a .socket unit with FileDescriptorName="+l.Activation+", not by its .service unit or from a shell")
		return
	}
	offered := "it hands over " + strings.Join(slices.Compact(names), ", ")
	hint := offered + ": write systemd:" + names[0]
	if slices.Equal(slices.Compact(names), []string{"unknown"}) || strings.HasSuffix(names[0], ".socket") {
		hint = offered + ": write FileDescriptorName=" + l.Activation + " in the .socket unit"
	}
	a.fail(what, hint)
}
