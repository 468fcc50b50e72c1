package gateway

import (
	"context"
	"errors"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/transparent"
	"unproxy/transparent/routing"
)

const (
	// ownEvery is how often the host's own addresses are listed without an event.
	// IPv4 routes that disappear with an interface cause none.
	ownEvery = 10 * time.Second
	// ownRetry is the time to the next attempt after a failure.
	ownRetry = time.Second
	// ownShare limits the share of a processor that events can take: after a list
	// that took a second, events are collected for this many seconds.
	ownShare = 9
	// ownPause is the least time for which events are collected: a new address
	// causes several.
	ownPause = 2 * time.Millisecond
)

// learnOwnAddresses gives the forwards the host's addresses, which no client may have and
// which alone are source addresses, and the gateway's listeners, to which no header may lead.
func (g *Gateway) learnOwnAddresses() error {
	for _, f := range g.config.Forwards {
		if !f.Transparent && !f.HasHeaderBackend() && len(f.SourceAddresses) == 0 {
			continue
		}
		if g.own == nil {
			if err := g.subscribe(); err != nil {
				return err
			}
		}
		f.Source.Own, f.Source.Replaced = g.own, g.own.Replaced()
		f.OwnListeners = &g.listeners
	}
	return nil
}

// subscribe lists the host's addresses. The watch begins first, so that no change is
// missed.
func (g *Gateway) subscribe() error {
	watch, err := routing.WatchAddresses()
	if err != nil {
		return err
	}
	own, err := transparent.NewOwnAddresses(hostAddresses)
	if err != nil {
		watch.Close()
		return err
	}
	g.own, g.watch, g.ownEvery = own, watch, ownEvery
	return nil
}

func hostAddresses() (transparent.HostAddresses, error) {
	own, replaced, err := routing.OwnAddresses()
	return transparent.HostAddresses{Own: own, Replaced: replaced}, err
}

// learnOwnListeners records where the gateway listens.
func (g *Gateway) learnOwnListeners() {
	if g.own == nil {
		return
	}
	var all []forward.OwnListener
	for _, b := range g.Bound() {
		if !b.Addr.IsUnix() {
			all = append(all, b.Listener.Own(b.Addr.Addr, b.Forward.Datagrams))
		}
	}
	g.listeners.Add(all...)
}

// Reserve denies headers that name other listeners of the process as destination, in
// addition to those of its forwards. Call it before [Gateway.Run].
func (g *Gateway) Reserve(all ...forward.OwnListener) { g.listeners.Add(all...) }

// watchOwnAddresses keeps the host's addresses current until ctx is done. When they
// cannot be listed, those of the last list stay in force.
func (g *Gateway) watchOwnAddresses(ctx context.Context) {
	for watch := g.watch; watch != nil; watch = g.resubscribe(ctx) {
		g.follow(ctx, watch)
	}
}

// follow lists the host's addresses after each event. It returns when ctx is done or
// the watch fails.
func (g *Gateway) follow(ctx context.Context, watch *routing.AddressWatch) {
	stop := context.AfterFunc(ctx, watch.Close)
	defer func() {
		if stop() {
			watch.Close()
		}
	}()
	for {
		err := watch.Wait(g.ownEvery)
		for changed := true; changed; {
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				g.noteUnknown(err)
			}
			if err != nil && !errors.Is(err, routing.ErrEventsLost) {
				return
			}
			pause := g.refreshOwnAddresses()
			changed, err = watch.Collect(pause)
			changed = changed || err != nil || pause == ownRetry
		}
	}
}

// refreshOwnAddresses lists the host's addresses and returns how long to wait before
// the next time.
func (g *Gateway) refreshOwnAddresses() (pause time.Duration) {
	began := time.Now()
	if err := g.own.Refresh(); err != nil {
		g.noteUnknown(err)
		return ownRetry
	}
	return max(ownPause, min(ownShare*time.Since(began), ownRetry-1))
}

// resubscribe subscribes again after a failure. It returns nil when ctx is done.
func (g *Gateway) resubscribe(ctx context.Context) *routing.AddressWatch {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(ownRetry):
		}
		watch, err := routing.WatchAddresses()
		g.refreshOwnAddresses()
		if err == nil {
			return watch
		}
		g.noteUnknown(err)
	}
}

// noteUnknown reports that the host's addresses may not be known.
func (g *Gateway) noteUnknown(err error) {
	if g.notice != nil {
		g.notice(engine.Notice{Event: "addresses_unknown", Err: err})
	}
}
