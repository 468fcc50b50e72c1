// Package gateway is the life of a gateway: it opens the listeners of a
// configuration, serves, hands its sockets over to a process that replaces it,
// and drains.
package gateway

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"unproxy/gateway/ban"
	"unproxy/gateway/config"
	"unproxy/gateway/datagram"
	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/transparent"
	"unproxy/transparent/routing"
)

// portsEvery is how often the host's ephemeral ports are read.
const portsEvery = 10 * time.Second

// Gateway is a running gateway, or one about to run. Its methods may be called
// from any goroutine.
type Gateway struct {
	config config.Config
	notice func(engine.Notice)
	engine *engine.Engine
	relay  *datagram.Relay // for UDP forwards

	own       *transparent.OwnAddresses // nil if no forward needs them
	watch     *routing.AddressWatch     // of own, since before the first list
	ownEvery  time.Duration             // how often own is listed without an event
	listeners forward.OwnListeners      // of this process, if own is set
	ports     *kernel.LivePorts

	started chan struct{} // closed when connections are accepted
	handed  signal        // another process has the sockets
	hurry   signal        // ends the drain
}

// signal is a one-shot signal.
type signal struct {
	sent chan struct{} // closed when it is
	send func()
}

func newSignal() signal {
	sent := make(chan struct{})
	return signal{sent, sync.OnceFunc(func() { close(sent) })}
}

// Observer receives what a gateway reports. A nil function discards it.
type Observer struct {
	// Connection receives each finished connection. It is called on an event
	// loop, from several at once, and must neither block nor keep its argument.
	Connection func(*record.Connection)
	// Notice receives the rare events that belong to no connection. It may be
	// called from any goroutine.
	Notice func(engine.Notice)
}

// New opens every listener, so that configuration errors surface before the first
// connection. For transparent and tproxy forwards it first checks that the kernel
// permits them; the error is then a [transparent.OptionError]. For a listener
// that cannot be opened it is an [engine.ListenError], for a source
// address that is not one of this host a [SourceError], and for an invalid configuration those of [config.Config.Validate]. The configuration must not
// change afterwards.
func New(c *config.Config, o Observer) (*Gateway, error) {
	if _, err := c.Validate(); err != nil {
		return nil, err
	}
	g := &Gateway{config: *c, notice: o.Notice, started: make(chan struct{}), handed: newSignal(), hurry: newSignal()}
	if err := g.checkCapabilities(); err != nil {
		return nil, err
	}
	if err := g.learnOwnAddresses(); err != nil {
		return nil, err
	}
	if err := g.checkSources(); err != nil {
		return nil, g.abandon(err)
	}
	loops := c.Loops
	if loops <= 0 {
		loops = runtime.NumCPU()
	}
	if g.config.Bans == nil {
		g.config.Bans = ban.New(time.Now)
	}
	g.ports = kernel.NewLivePorts()
	g.relay = datagram.New(datagram.Config{
		MaxFlows: c.MaxFlows, Banned: g.config.Bans, Ephemeral: g.ports, Report: o.Connection, Notice: o.Notice,
	})
	e, err := engine.New(engine.Config{
		Forwards:       c.Forwards,
		Loops:          loops,
		Spin:           c.Spin,
		MaxConnections: c.MaxConnections,
		MaxWaiting:     c.MaxWaiting,
		MaxPipes:       c.MaxPipes,
		MaxBuffer:      int64(c.MaxBuffer),
		Banned:         g.config.Bans,
		Ephemeral:      g.ports,
		Guest:          g.relay.Guest,
		Report:         o.Connection,
		Notice:         o.Notice,
	})
	if err != nil {
		return nil, g.abandon(err)
	}
	g.engine = e
	g.learnOwnListeners()
	return g, nil
}

// abandon ends the watch of the host's addresses and returns err.
func (g *Gateway) abandon(err error) error {
	if g.watch != nil {
		g.watch.Close()
	}
	return err
}

// checkCapabilities checks what foreign addresses and marks need.
func (g *Gateway) checkCapabilities() error {
	var foreign, mark bool
	for _, f := range g.config.Forwards {
		foreign = foreign || f.ConnectsAsClient() || f.TProxy
		mark = mark || f.Mark != 0
	}
	switch {
	case foreign:
		return transparent.Check(mark)
	case mark:
		return transparent.CheckMark()
	}
	return nil
}

// Bound returns the open listeners, in the order of the configuration's forwards
// and their listeners.
func (g *Gateway) Bound() []forward.Bound {
	var all []forward.Bound
	streams, datagrams := g.engine.Bound(), g.relay.Bound()
	for _, f := range g.config.Forwards {
		addrs := &streams
		if f.Datagrams {
			addrs = &datagrams
		}
		for i, l := range f.Listeners {
			all = append(all, forward.Bound{Forward: f, Listener: l, Addr: (*addrs)[i]})
		}
		*addrs = (*addrs)[len(f.Listeners):]
	}
	return all
}

// Counters returns the number of current connections.
func (g *Gateway) Counters() engine.Counters { return g.engine.Counters() }

// EachSession calls visit for every open connection; see
// [engine.Engine.EachSession].
func (g *Gateway) EachSession(ctx context.Context, visit func(*engine.Session)) error {
	return g.engine.EachSession(ctx, visit)
}

// Holdings returns what the connections hold; see [engine.Engine.Holdings].
func (g *Gateway) Holdings(ctx context.Context) (engine.Holdings, error) {
	return g.engine.Holdings(ctx)
}

// GiveBack gives memory back after a burst; see [engine.Engine.GiveBack].
func (g *Gateway) GiveBack(ctx context.Context) error { return g.engine.GiveBack(ctx) }

// Reset ends the connection that has an id; see [engine.Engine.Reset].
func (g *Gateway) Reset(ctx context.Context, id uint64) (found bool, err error) {
	return g.engine.Reset(ctx, id)
}

// Tallies returns the counters of each forward since the start.
func (g *Gateway) Tallies(ctx context.Context) ([]record.ForwardTally, error) {
	return g.engine.Tallies(ctx)
}

// Backends returns the state of each backend; see [engine.Engine.Backends].
func (g *Gateway) Backends() []engine.BackendState { return g.engine.Backends() }

// WithoutBackend returns the numbers of the forwards whose checked backends all fail; see
// [engine.Engine.WithoutBackend].
func (g *Gateway) WithoutBackend() []int { return g.engine.WithoutBackend() }

// Datagrams returns the counters of UDP.
func (g *Gateway) Datagrams() datagram.Counters { return g.relay.Counters() }

// Run serves until ctx is done and then drains: it keeps accepting for DrainDelay,
// lets existing connections finish for DrainTimeout and cuts the rest. It returns
// nil after that. Run may be called once. After
// [Gateway.HandOver] it drains without the delay.
func (g *Gateway) Run(ctx context.Context) error {
	if g.engine == nil {
		return errors.New("run a gateway that New did not make")
	}
	watching, stop := context.WithCancel(context.Background())
	defer stop()
	if g.own != nil {
		go g.watchOwnAddresses(watching)
	}
	go g.watchPorts(watching)
	go g.config.Bans.Watch(watching)
	g.engine.Start()
	defer g.engine.Close()
	close(g.started)
	select {
	case <-ctx.Done():
		g.wait(g.config.DrainDelay, nil)
		g.engine.StopAccepting()
	case <-g.handed.sent:
		g.engine.Release()
	}
	g.wait(g.config.DrainTimeout, g.engine.Idle())
	g.engine.Cut()
	return nil
}

// wait returns after d, when done is closed, or when Hurry is called.
func (g *Gateway) wait(d time.Duration, done <-chan struct{}) {
	if d <= 0 && done == nil {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	case <-g.hurry.sent:
	}
}

// Hurry ends the drain: the remaining connections are cut.
func (g *Gateway) Hurry() { g.hurry.send() }

// Started is closed when Run has begun to accept connections.
func (g *Gateway) Started() <-chan struct{} { return g.started }

// Alive is closed once every event loop has run a turn; see [engine.Engine.Alive].
func (g *Gateway) Alive() <-chan struct{} { return g.engine.Alive() }

// Sockets returns copies of the listening sockets, for the process that takes
// over. The caller owns them, also after an error. Call it only after the start and
// before the drain.
func (g *Gateway) Sockets() ([]forward.Socket, error) {
	streams, err := g.engine.Sockets()
	if err != nil {
		return nil, err
	}
	datagrams, err := g.relay.Sockets()
	return append(streams, datagrams...), err
}

// HandOver stops accepting and drains, because another process serves what
// [Gateway.Sockets] returned. Connections that wait in the listeners' queues are
// left to it.
func (g *Gateway) HandOver() { g.handed.send() }

// watchPorts keeps the host's ephemeral ports current.
func (g *Gateway) watchPorts(ctx context.Context) {
	ticker := time.NewTicker(portsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			g.ports.Refresh()
		}
	}
}
