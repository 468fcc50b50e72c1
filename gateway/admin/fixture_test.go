package admin

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"unproxy/gateway/ban"
	"unproxy/gateway/config"
	"unproxy/gateway/datagram"
	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/trust"
)

// fake is a gateway with fixed answers.
type fake struct {
	counters engine.Counters
	reloads  config.ReloadState
	tallies  []record.ForwardTally
	bound    []forward.Bound
	sessions []engine.Session
	reset    []uint64 // IDs passed to Reset
	err      error    // of methods that wait for event loops

	holdings engine.Holdings
	bans     *ban.List
	cut      []netip.Prefix // passed to CutClients

	datagrams datagram.Counters
	backends  []engine.BackendState
}

func (f *fake) Bound() []forward.Bound { return f.bound }

func (f *fake) EachSession(_ context.Context, visit func(*engine.Session)) error {
	for _, s := range f.sessions {
		visit(&s) // valid during the call only
		s = engine.Session{}
	}
	return f.err
}

func (f *fake) Holdings(context.Context) (engine.Holdings, error) { return f.holdings, f.err }

func (f *fake) Reset(_ context.Context, id uint64) (bool, error) {
	if f.err != nil {
		return false, f.err
	}
	for _, s := range f.sessions {
		if s.ID == id {
			f.reset = append(f.reset, id)
			return true, nil
		}
	}
	return false, nil
}

// cutClients is what CutClients of a fake returns.
const cutClients = 3

func (f *fake) CutClients(_ context.Context, p netip.Prefix) (int, error) {
	f.cut = append(f.cut, p)
	return cutClients, f.err
}

func (f *fake) Bans() *ban.List {
	if f.bans == nil {
		f.bans = ban.New(func() time.Time { return noon })
	}
	return f.bans
}

func (f *fake) Counters() engine.Counters { return f.counters }

func (f *fake) Reloads() config.ReloadState { return f.reloads }

func (f *fake) Backends() []engine.BackendState { return slices.Clone(f.backends) }

func (f *fake) Datagrams() datagram.Counters { return f.datagrams }

func (f *fake) Tallies(context.Context) ([]record.ForwardTally, error) { return f.tallies, f.err }

// nearby is the address of the tests' endpoints: a unix socket, where requests may
// have any Host field.
var nearby = Address{Path: "/run/admin.sock"}

// noon is the time of the tests' clocks.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// busy returns an endpoint whose gateway has three forwards, two of them with the
// same name, and counters.
func busy() (*Server, *fake) {
	c := quiet()
	c.Now = func() time.Time { return noon }
	c.Instance = "c0ffee"
	c.Refusals = NewRefusals(c.Now)
	c.Version = Version{"v1.2.3", "abc", "go1.26"}
	c.LogDropped = func() uint64 { return 7 }
	set := trust.NewSet([]trust.Rule{
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Text: "10.0.0.0/8", Origin: "--trust"},
		{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Text: "192.0.2.7", Origin: "lb.txt:3"},
	})
	set.Admit(netip.MustParseAddr("10.1.2.3"), 0)
	c.Gateway = &config.Config{MaxConnections: 100, Forwards: []*forward.Forward{
		{Name: ":8443", Trust: set, DenyClient: set, Transparent: true},
		{Name: "127.0.0.1:0", Trust: set},
		{Name: "127.0.0.1:0", Trust: trust.NewSet(nil)},
	}}
	g := &fake{counters: engine.Counters{Active: 3, Waiting: 1, PerLoop: []int{2, 1}}}
	g.backends = []engine.BackendState{
		{Forward: ":8443", Backend: "db:5432 (192.0.2.7:5432)", Up: true},
		{Forward: ":8443", Backend: "192.0.2.8:5432", Since: noon, LastError: "connection refused"},
		{Forward: "127.0.0.1:0", Index: 1, Backend: "192.0.2.9:1", Up: true},
		{Forward: "127.0.0.1:0", Index: 2, Backend: "192.0.2.9:1"},
	}
	for i := range 40 {
		g.backends = append(g.backends, engine.BackendState{Forward: "127.0.0.1:0", Index: 2, Backend: fmt.Sprint("/", i)})
	}
	c.Gateway.MaxBuffer, c.Gateway.MaxPipes = 1<<20, 64
	g.counters.Pipes = 5
	g.holdings = engine.Holdings{Blocked: 2, HalfClosed: 1, Idle: 3, Buffered: 4096, Piped: 70000}
	g.reloads = config.ReloadState{Succeeded: 4, Failed: 2, LastSuccess: time.Unix(1000, 0)}
	for i, f := range c.Gateway.Forwards {
		for j := range 10 * (2 - i) { // 20 ports, 10, none
			l := forward.Listener{
				Name: fmt.Sprintf("%d/%d", i, j), Backends: []forward.Backend{{Host: "db", Port: 5432}},
			}
			f.Listeners = append(f.Listeners, l)
			at := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(100*i+j))
			g.bound = append(g.bound, forward.Bound{Forward: f, Listener: l, Addr: forward.Endpoint{Addr: at}})
		}
		t := record.ForwardTally{Name: f.Name, Active: 1}
		t.Accepted = uint64(10 * (i + 1))
		t.Closed[record.OK][record.Relay] = uint64(i + 1)
		t.Headers[record.V2Local] = 4
		t.Bytes = [2]uint64{1000, 2000}
		t.PortFallbacks = 5
		t.HeaderTime.Counts[0], t.HeaderTime.Counts[14], t.HeaderTime.Seconds = 3, 1, 60.5
		t.Duration.Counts[4], t.Duration.Seconds = 2, (2 * time.Second).Seconds()
		g.tallies = append(g.tallies, t)
	}
	s := newServer(c, nearby)
	var attached Gateway = g
	s.attached.Store(&attached) // like Attach, but without sampling
	return s, g
}
