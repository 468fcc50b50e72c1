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

// lookupTime is how long a name may take to resolve.
const lookupTime = 5 * time.Second

// target is an address that forwards lead to, as they dial it.
type target struct {
	// name is the backend as the operator wrote it, with the address where
	// that is a name.
	name string
	// at is its address, or path the path of a unix socket.
	at   netip.AddrPort
	path string
	// mark is the SO_MARK that it is dialled with, and spoof whether that is
	// from the client's address.
	mark  uint32
	spoof bool
	// udp says that it is sent datagrams.
	udp bool
	// familyOnly says that a client of the other family never comes here.
	familyOnly bool
	// listeners are those that lead here.
	listeners []*forward.Listener
	// plain is what came of a connection from the gateway's own address.
	plain seen
}

// same reports whether two targets are dialled alike.
func (t *target) same(o *target) bool {
	return t.at == o.at && t.path == o.path && t.mark == o.mark && t.spoof == o.spoof && t.udp == o.udp
}

// targets lists where the forwards lead, each address once, as far as names
// have addresses. Of a range of ports, the first and the last stand for all.
func targets(forwards []*forward.Forward, names map[string]resolved) []*target {
	var all []*target
	for _, f := range forwards {
		for _, l := range ends(f.Listeners) {
			for _, b := range l.Backends {
				for _, t := range dialled(f, b, names) {
					all = appendTarget(all, t, l)
				}
			}
		}
	}
	return all
}

func appendTarget(all []*target, t *target, from *forward.Listener) []*target {
	i := slices.IndexFunc(all, t.same)
	if i < 0 {
		all, i = append(all, t), len(all)
	}
	all[i].listeners = append(all[i].listeners, from)
	return all
}

// dialled lists the targets of one backend. Those of a header are not known
// before it comes.
func dialled(f *forward.Forward, b forward.Backend, names map[string]resolved) []*target {
	switch {
	case b.FromHeader:
		return nil
	case b.Endpoint.IsUnix():
		return []*target{{name: b.Endpoint.String(), path: b.Endpoint.Path}}
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
	return &target{
		name: name, at: at, mark: f.Mark, spoof: f.Transparent, udp: f.Datagrams,
		familyOnly: f.Transparent && f.Source.FamilyMismatch == transparent.Reject,
	}
}

// ends returns the first listener of a range and the last one.
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

// resolved is what the look-up of a name came to.
type resolved struct {
	addresses []netip.Addr
	err       error
}

// lookup is a function such as [Host.Lookup].
type lookup func(context.Context, string) ([]netip.Addr, error)

// resolve looks up every name that the forwards lead to, all at the same time.
func resolve(ctx context.Context, look lookup, forwards []*forward.Forward) map[string]resolved {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	hosts := hostsOf(forwards)
	found := make([]resolved, len(hosts))
	var all sync.WaitGroup
	for i, host := range hosts {
		all.Go(func() {
			addresses, err := look(ctx, host)
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

// hostsOf lists the names that the forwards lead to, each once, in order.
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
