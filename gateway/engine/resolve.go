package engine

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// resolveEvery is the interval between look-ups of a name. The system's resolver does not
	// report TTLs; half a minute is usual for the records of services that move.
	resolveEvery = 30 * time.Second
	// resolveRetry is the interval after a failed look-up.
	resolveRetry = 2 * time.Second
	// resolveTimeout bounds one look-up.
	resolveTimeout = 5 * time.Second
)

// name is a backend's DNS name and its current addresses. A failed look-up keeps the addresses of
// the last successful one.
type name struct {
	host      string
	addresses atomic.Pointer[[]netip.Addr]
	refresh   chan struct{} // holds an element if a look-up was requested
}

// resolver keeps the addresses of names up to date, in goroutines of its own.
type resolver struct {
	lookup  func(context.Context, string) ([]netip.Addr, error)
	notice  func(Notice)
	names   map[string]*name
	stop    context.CancelFunc
	running sync.WaitGroup
}

func newResolver(lookup func(context.Context, string) ([]netip.Addr, error), notice func(Notice)) *resolver {
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &resolver{lookup: lookup, notice: notice, names: map[string]*name{}}
}

// name returns the name for host, the same for each caller; nil for "".
func (r *resolver) name(host string) *name {
	if host == "" {
		return nil
	}
	n := r.names[host]
	if n == nil {
		n = &name{host: host, refresh: make(chan struct{}, 1)}
		n.addresses.Store(new([]netip.Addr))
		r.names[host] = n
	}
	return n
}

// start looks up all names at the same time, waits for the results, and repeats the look-ups in the
// background until close is called or ctx is done.
func (r *resolver) start(ctx context.Context) {
	ctx, r.stop = context.WithCancel(ctx)
	var first sync.WaitGroup
	for _, n := range r.names {
		first.Go(func() {
			ok := r.resolve(ctx, n, true)
			r.running.Go(func() { r.keepFresh(ctx, n, ok) })
		})
	}
	first.Wait()
}

// refreshAll requests a look-up of every name.
func (r *resolver) refreshAll() {
	for _, n := range r.names {
		select {
		case n.refresh <- struct{}{}:
		default: // already requested
		}
	}
}

// close ends the look-ups and waits for them. start must have been called.
func (r *resolver) close() {
	r.stop()
	r.running.Wait()
}

// keepFresh looks a name up repeatedly. ok is the result of the last look-up.
func (r *resolver) keepFresh(ctx context.Context, n *name, ok bool) {
	for {
		wait := resolveEvery
		if !ok {
			wait = resolveRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-n.refresh:
		case <-time.After(wait):
		}
		ok = r.resolve(ctx, n, ok)
	}
}

// resolve looks a name up once, and reports the first failure and the first success after it.
func (r *resolver) resolve(ctx context.Context, n *name, wasOK bool) bool {
	lookup, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := r.lookup(lookup, n.host)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("look up %s: no addresses", n.host)
	}
	if err != nil {
		if wasOK && ctx.Err() == nil {
			r.notice(Notice{Event: "resolve_failed", Detail: n.host, Err: err})
		}
		return false
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	if old := *n.addresses.Load(); !slices.Equal(old, found) {
		n.addresses.Store(&found)
	}
	if !wasOK {
		r.notice(Notice{Event: "resolved", Detail: n.host})
	}
	return true
}
