package routing

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"unproxy/transparent/returnpath"
)

// Surroundings is what a plan depends on besides its targets. The zero value
// asks this host.
type Surroundings struct {
	// Lookup resolves a backend's name; nil is the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Locate finds out how backends are reached; nil is [Locate].
	Locate func([]returnpath.Backend) ([]returnpath.Backend, error)
}

// UnresolvedError is a backend's name that does not resolve.
type UnresolvedError struct {
	Host string
	Err  error
}

// Error says which name does not resolve, and why.
func (e *UnresolvedError) Error() string {
	return fmt.Sprintf("the backend's name %s does not resolve: %v", e.Host, e.Err)
}

// DeviceError is an interface whose name cannot be part of a plan.
type DeviceError struct {
	Address netip.Addr // is reached through the interface
	Err     error
}

// Error names the address and what is wrong with the interface's name.
func (e *DeviceError) Error() string {
	return fmt.Sprintf("cannot plan a route to %s: %v", e.Address, e.Err)
}

// Unwrap returns the error about the name.
func (e *DeviceError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *DeviceError) Hint() string {
	return "rename the interface: ip link set dev NAME name NEW, with the interface down"
}

// Unwrap returns the resolver's error.
func (e *UnresolvedError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *UnresolvedError) Hint() string {
	return "routes need addresses: write the backend's address, or run this again when the name resolves"
}

// Resolve returns the addresses of a name by the system's resolver.
func Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Plan resolves the names of t, finds out how this host reaches each backend,
// and plans the return path. A name that does not resolve is left out; the error
// then joins an [*UnresolvedError] for each, and the plan holds for the rest. Any
// other error leaves no plan.
func Plan(ctx context.Context, t returnpath.Targets, s Surroundings) (returnpath.Plan, error) {
	if s.Lookup == nil {
		s.Lookup = Resolve
	}
	if s.Locate == nil {
		s.Locate = Locate
	}
	backends, unresolved := resolve(ctx, t.Backends, s.Lookup)
	located, err := s.Locate(backends)
	if err != nil {
		return returnpath.Plan{}, err
	}
	t.Options.Owner = t.Owner()
	return returnpath.New(located, t.Redirects, t.Options), unresolved
}

// resolve returns the backends that targets stand for, looking up each name once.
func resolve(
	ctx context.Context, targets []returnpath.Target, lookup func(context.Context, string) ([]netip.Addr, error),
) ([]returnpath.Backend, error) {
	var all []returnpath.Backend
	var errs []error
	known := map[string][]netip.Addr{}
	for _, t := range targets {
		if t.Host == "" {
			all = append(all, t.Backend)
			continue
		}
		addrs, asked := known[t.Host]
		if !asked {
			var err error
			if addrs, err = lookup(ctx, t.Host); err != nil {
				errs = append(errs, &UnresolvedError{t.Host, err})
			}
			known[t.Host] = addrs
		}
		for _, a := range addrs {
			all = append(all, returnpath.Server(netip.AddrPortFrom(a, t.Ports.Low), t.UDP))
		}
	}
	return all, errors.Join(errs...)
}
