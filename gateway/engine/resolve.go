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
	// resolveEvery is how often a name is looked up again. The system's
	// resolver tells no lifetimes; half a minute is what most records of
	// services that move have.
	resolveEvery = 30 * time.Second
	// resolveRetry is how soon after a failure.
	resolveRetry = 2 * time.Second
	// resolveTimeout bounds one look-up.
	resolveTimeout = 5 * time.Second
)

// name is a backend's DNS name and the addresses that it has now. A look-up
// that fails leaves the addresses of the last one that did not.
type name struct {
	host      string
	addresses atomic.Pointer[[]netip.Addr]
	refresh   chan struct{} // holds something when it is to be looked up at once
}

// resolver keeps the names fresh, off the loops.
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

// name returns the name for host, one for all who ask for it; nil for "".
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

// start looks every name up once, all at the same time, and again and again in
// the background until close is called.
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

// hurry has every name looked up again now.
func (r *resolver) refreshAll() {
	for _, n := range r.names {
		select {
		case n.refresh <- struct{}{}:
		default: // it is to be already
		}
	}
}

// close ends what start began and waits for it.
func (r *resolver) close() {
	r.stop()
	r.running.Wait()
}

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

// resolve looks a name up once and tells when that begins or ceases to fail.
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
