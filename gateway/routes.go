package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"unproxy/gateway/forward"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// Surroundings is what a plan of routes depends on besides the configuration.
// The zero value asks this host.
type Surroundings struct {
	// Lookup resolves a backend's name; nil is the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Locate finds out how backends are reached; nil is [routing.Locate].
	Locate func([]returnpath.Backend) ([]returnpath.Backend, error)
}

// PlanRoutes makes the plan that brings the replies of c's backends back, those
// of its transparent forwards, and that hands its tproxy listeners what is to be
// redirected to them. A name that does not resolve is left out and told
// of in the error, which joins a [*Problem] for each; the plan is right for the
// rest. Any other error leaves no plan.
func (c *Config) PlanRoutes(ctx context.Context, s Surroundings) (returnpath.Plan, error) {
	if s.Lookup == nil {
		s.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if s.Locate == nil {
		s.Locate = routing.Locate
	}
	t := targets{lookup: s.Lookup, names: map[string][]netip.Addr{}}
	for _, f := range c.Forwards {
		if f.Transparent {
			t.forward(ctx, f)
		}
		t.redirect(f)
	}
	located, err := s.Locate(t.all)
	if err != nil {
		return returnpath.Plan{}, err
	}
	return returnpath.New(located, t.redirects, c.Routes), errors.Join(t.errs...)
}

// targets collects what forwards dial.
type targets struct {
	lookup func(context.Context, string) ([]netip.Addr, error)
	names  map[string][]netip.Addr // looked up once each
	all    []returnpath.Backend
	errs   []error

	redirects []returnpath.Redirect
}

func (t *targets) forward(ctx context.Context, f *forward.Forward) {
	for _, l := range f.Listeners {
		for _, b := range l.Backends {
			t.backend(ctx, b, f.Datagrams)
		}
	}
	if !leadsAnywhere(f) {
		return
	}
	for _, r := range Rules(f.AllowDestination) {
		t.all = append(t.all, returnpath.Backend{Addr: r.Prefix.Masked(), Ports: returnpath.AllPorts, UDP: f.Datagrams})
	}
}

func (t *targets) redirect(f *forward.Forward) {
	for _, r := range f.Redirect {
		t.redirects = append(t.redirects, returnpath.Redirect{
			Prefix: r.Prefix,
			Ports:  returnpath.Ports{Low: r.Low, High: r.High},
			To:     f.Listeners[0].Endpoint.Addr, // Validate sees to it that there is but one
		})
	}
}

func (t *targets) backend(ctx context.Context, b forward.Backend, udp bool) {
	switch {
	case b.Host != "":
		for _, a := range t.resolve(ctx, b.Host) {
			t.all = append(t.all, returnpath.Server(netip.AddrPortFrom(a, b.Port), udp))
		}
	case b.Endpoint.Addr.IsValid():
		t.all = append(t.all, returnpath.Server(b.Endpoint.Addr, udp))
	}
}

func (t *targets) resolve(ctx context.Context, host string) []netip.Addr {
	if known, ok := t.names[host]; ok {
		return known
	}
	found, err := t.lookup(ctx, host)
	if err != nil {
		t.errs = append(t.errs, &Problem{
			Message: fmt.Sprintf("the backend's name %s does not resolve: %v", host, err),
			Remedy:  "routes go by addresses: write the backend's address, or run this again when the name is known",
		})
	}
	t.names[host] = found
	return found
}
