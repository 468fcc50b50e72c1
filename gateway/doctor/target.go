package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"unproxy/gateway/forward"
	"unproxy/transparent"
)

// lookupTime is the time that all names together have to resolve.
const lookupTime = 5 * time.Second

// target is a backend address, with the options that forwards connect to it with.
type target struct {
	// name is the backend as the operator wrote it, followed by the address if
	// it is a host name.
	name string
	// at is the address; for a unix socket it is zero, and path is set.
	at   netip.AddrPort
	path string
	// source is the first address of this host that plain connections come from; invalid if
	// the kernel chooses.
	source netip.Addr
	// mark is the SO_MARK of connections.
	mark uint32
	// spoof reports whether connections come from the client's address.
	spoof bool
	// toa is how clients' addresses travel otherwise.
	toa forward.TOA
	udp bool
	// familyOnly reports whether clients of the other address family are never
	// connected to it.
	familyOnly bool
	// onDemand reports whether all forwards that lead to it say that it listens on
	// demand.
	onDemand bool
	// listeners are the listeners that lead to it.
	listeners []*forward.Listener
	// plain is the result of an attempt from the gateway's own address.
	plain plainResult
}

// same reports whether forwards connect to two targets in the same way.
func (t *target) same(o *target) bool {
	return t.at == o.at && t.path == o.path && t.source == o.source && t.mark == o.mark && t.spoof == o.spoof &&
		t.toa == o.toa && t.udp == o.udp
}

// targets returns the distinct targets of the forwards, as far as names resolve.
// The first and the last port of a range stand for all.
func targets(forwards []*forward.Forward, names map[string]resolved) []*target {
	var all []*target
	for _, f := range forwards {
		for _, l := range ends(f.Listeners) {
			for _, b := range l.Backends {
				for _, t := range targetsOf(f, b, names) {
					all = appendTarget(all, t, l)
				}
			}
		}
	}
	return all
}

// appendTarget appends t unless the same target is in all, and adds a listener to
// the target.
func appendTarget(all []*target, t *target, from *forward.Listener) []*target {
	i := slices.IndexFunc(all, t.same)
	if i < 0 {
		all, i = append(all, t), len(all)
	}
	all[i].onDemand = all[i].onDemand && t.onDemand
	all[i].listeners = append(all[i].listeners, from)
	return all
}

// targetsOf returns the targets of one backend. A destination from a header is
// unknown until the header arrives.
func targetsOf(f *forward.Forward, b forward.Backend, names map[string]resolved) []*target {
	switch {
	case b.FromHeader:
		return nil
	case b.Endpoint.IsUnix():
		return []*target{{name: b.Endpoint.String(), path: b.Endpoint.Path, onDemand: f.OnDemand}}
	case b.Host == "":
		return []*target{newTarget(f, b.Endpoint.String(), b.Endpoint.Addr)}
	}
	var all []*target
	for _, a := range names[b.Host].addresses {
		name := fmt.Sprintf("%s:%d (%s)", b.Host, b.Port, a)
		all = append(all, newTarget(f, name, netip.AddrPortFrom(a, b.Port)))
	}
	return all
}

func newTarget(f *forward.Forward, name string, at netip.AddrPort) *target {
	if f.Datagrams {
		name = "udp://" + name
	}
	var source netip.Addr
	if all := sourcesFor(f, at.Addr()); len(all) > 0 {
		source = all[0].Addr()
	}
	return &target{
		name: name, at: at, source: source, mark: f.Mark, spoof: f.ConnectsAsClient(), toa: f.TOA, udp: f.Datagrams,
		onDemand:   f.OnDemand,
		familyOnly: f.Transparent && f.Source.FamilyMismatch == transparent.Reject,
	}
}

// ends returns the first and the last listener of a range.
func ends(all []forward.Listener) []*forward.Listener {
	switch n := len(all); n {
	case 0:
		return nil
	case 1:
		return []*forward.Listener{&all[0]}
	default:
		return []*forward.Listener{&all[0], &all[n-1]}
	}
}

// resolved is the result of resolving a name.
type resolved struct {
	addresses []netip.Addr // unmapped
	err       error
}

// resolve resolves the host names of all backends at the same time.
func resolve(ctx context.Context, lookup lookupFunc, forwards []*forward.Forward) map[string]resolved {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	hosts := hostsOf(forwards)
	found := make([]resolved, len(hosts))
	var all sync.WaitGroup
	for i, host := range hosts {
		all.Go(func() {
			addresses, err := lookup(ctx, host)
			if err == nil && len(addresses) == 0 {
				err = fmt.Errorf("look up %s: no addresses", host)
			}
			for i := range addresses {
				addresses[i] = addresses[i].Unmap()
			}
			found[i] = resolved{addresses, err}
		})
	}
	all.Wait()
	byName := map[string]resolved{}
	for i, host := range hosts {
		byName[host] = found[i]
	}
	return byName
}

// hostsOf returns the distinct host names of the backends, in order.
func hostsOf(forwards []*forward.Forward) []string {
	var all []string
	for _, f := range forwards {
		for _, l := range ends(f.Listeners) {
			for _, b := range l.Backends {
				if b.Host != "" && !slices.Contains(all, b.Host) {
					all = append(all, b.Host)
				}
			}
		}
	}
	return all
}
