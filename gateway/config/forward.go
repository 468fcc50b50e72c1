package config

import (
	"fmt"
	"slices"
	"strings"

	"unproxy/gateway/engine"
	"unproxy/trust"
)

// Bound is a listener that is open.
type Bound struct {
	Forward  *engine.Forward
	Listener engine.Listener
	// Addr is the address it is bound to: that of the listener, with the port
	// that a listener on port 0 got.
	Addr engine.Endpoint
}

// Leads describes where a listener leads: its backends, in order.
func Leads(l engine.Listener) string {
	var all []string
	for _, b := range l.Backends {
		switch {
		case b.FromHeader:
			all = append(all, "the destination in the header")
		case b.Host != "":
			all = append(all, fmt.Sprintf("%s:%d", b.Host, b.Port))
		default:
			all = append(all, b.Endpoint.String())
		}
	}
	return strings.Join(all, ", else ")
}

// Rules returns the current rules of a set of addresses, nil where it is not one
// of package trust.
func Rules(a engine.Addresses) []trust.Rule {
	switch set := a.(type) {
	case *trust.Set:
		return set.Rules()
	case *trust.Live:
		return set.Set().Rules()
	}
	return nil
}

// LeadsAnywhere reports whether the header chooses the destination of f's
// connections.
func LeadsAnywhere(f *engine.Forward) bool {
	return anyBackend(f, func(b engine.Backend) bool { return b.FromHeader })
}

func hasUnixListener(f *engine.Forward) bool {
	return slices.ContainsFunc(f.Listeners, func(l engine.Listener) bool { return l.Endpoint.IsUnix() })
}

func anyBackend(f *engine.Forward, match func(engine.Backend) bool) bool {
	return slices.ContainsFunc(f.Listeners, func(l engine.Listener) bool { return slices.ContainsFunc(l.Backends, match) })
}
