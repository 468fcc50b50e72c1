package engine

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

func newNamedRig(t *testing.T, lookup func(context.Context, string) ([]netip.Addr, error)) *rig {
	f := plainForward()
	f.Listeners[0].Backends = []forward.Backend{{Host: "server.test", Port: 25}}
	return newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{f}, Lookup: lookup})
}

func TestBackendNames(t *testing.T) {
	r := newNamedRig(t, func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "server.test" {
			t.Errorf("look-up of %q", host)
		}
		return []netip.Addr{serverA6.Addr.Addr(), netip.MustParseAddr("::ffff:198.51.100.1")}, nil
	})
	first := forward.Endpoint{Addr: netip.AddrPortFrom(serverA.Addr.Addr(), 25)}
	r.plans[first] = []plan{refused}
	r.open(header)
	want := []forward.Endpoint{first, {Addr: netip.AddrPortFrom(serverA6.Addr.Addr(), 25)}}
	if got := r.dialOrder(); !slices.Equal(got, want) {
		t.Errorf("dialled %v, want %v", got, want)
	}
}

func TestUnresolvedName(t *testing.T) {
	boom := errors.New("no such host")
	r := newNamedRig(t, func(context.Context, string) ([]netip.Addr, error) { return nil, boom })
	r.open(header)
	c := r.expectEnd(1, record.BackendUnreachable, record.Dial, record.Gateway)
	if c.Reason != "the backend's name does not resolve" {
		t.Errorf("reason %q", c.Reason)
	}
	if len(r.notices) != 1 || r.notices[0].Event != "resolve_failed" || r.notices[0].Err != boom ||
		r.notices[0].Detail != "server.test" {
		t.Errorf("notices %+v", r.notices)
	}
}

// All addresses of a name are tried once, even if there are more than fit a byte.
func TestNameWithManyAddresses(t *testing.T) {
	r := newNamedRig(t, func(context.Context, string) ([]netip.Addr, error) {
		var all []netip.Addr
		for i := range 300 {
			all = append(all, netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}))
		}
		return all, nil
	})
	for i := range 300 {
		to := forward.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 25)}
		r.plans[to] = []plan{unreachable}
	}
	r.open(header)
	r.expectEnd(1, record.BackendUnreachable, record.Dial, record.Gateway)
	if len(r.dials) != 300 {
		t.Errorf("%d addresses were tried, want 300", len(r.dials))
	}
}

// Resolve looks names up at once, before the interval has passed.
func TestResolveNow(t *testing.T) {
	looked := make(chan string, 16)
	f := plainForward()
	f.Listeners[0].Backends = []forward.Backend{{Host: "a.test", Port: 1}, {Host: "b.test", Port: 1}}
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		looked <- host
		return []netip.Addr{serverA.Addr.Addr()}, nil
	}
	r := newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{f}, Lookup: lookup})
	<-looked
	<-looked
	r.engine.Resolve()
	again := map[string]bool{<-looked: true, <-looked: true}
	if !again["a.test"] || !again["b.test"] {
		t.Errorf("looked up again: %v", again)
	}
}
