package routing

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"unproxy/transparent/returnpath"
)

// named returns a target with a name.
func named(host string, port uint16) returnpath.Target {
	return returnpath.Target{Host: host, Backend: returnpath.Backend{Ports: returnpath.Ports{Low: port, High: port}}}
}

// A name is looked up once, and yields a backend for each of its addresses.
func TestResolve(t *testing.T) {
	var asked []string
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		asked = append(asked, host)
		if host == "gone" {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.2")}, nil
	}
	fixed := returnpath.Target{Backend: returnpath.Server(netip.MustParseAddrPort("10.0.0.9:9"), true)}
	got, err := resolve(t.Context(), []returnpath.Target{named("db", 1), named("gone", 2), fixed, named("db", 3), named("gone", 4)}, lookup)
	var texts []string
	for _, b := range got {
		texts = append(texts, b.String())
	}
	if want := []string{"10.0.0.1:1", "10.0.0.2:1", fixed.String(), "10.0.0.1:3", "10.0.0.2:3"}; !slices.Equal(texts, want) {
		t.Errorf("backends %q; want %q", texts, want)
	}
	if want := []string{"db", "gone"}; !slices.Equal(asked, want) {
		t.Errorf("looked up %q; want %q", asked, want)
	}
	var unresolved *UnresolvedError
	if !errors.As(err, &unresolved) || unresolved.Host != "gone" || unresolved.Hint() == "" {
		t.Errorf("the error is %v; want one about the name gone", err)
	}
}

// If a name does not resolve, there is a plan for the other backends. If the routes of
// the host cannot be read, there is none.
func TestPlan(t *testing.T) {
	s := Surroundings{
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") },
		Locate: func(all []returnpath.Backend) ([]returnpath.Backend, error) {
			for i := range all {
				all[i].Reach.Place = returnpath.Loopback
			}
			return all, nil
		},
	}
	targets := returnpath.Targets{Backends: []returnpath.Target{
		named("gone", 1), {Backend: returnpath.Server(netip.MustParseAddrPort("127.0.0.1:22"), false)},
	}}
	p, err := Plan(t.Context(), targets, s)
	if unresolved := (*UnresolvedError)(nil); !errors.As(err, &unresolved) || p.Empty() {
		t.Errorf("plan %v, %v; want one for the rest, and an error for the name", p, err)
	}
	broken := errors.New("no netlink")
	s.Locate = func([]returnpath.Backend) ([]returnpath.Backend, error) { return nil, broken }
	if p, err := Plan(t.Context(), targets, s); !errors.Is(err, broken) || !p.Empty() {
		t.Errorf("plan %v, %v; want none", p, err)
	}
}
