package engine

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// The addresses of the scripted tests: the load balancer is 192.0.2.1, the
// client that its headers name 203.0.113.9, the backends are 198.51.100.x.
var (
	lb         = netip.MustParseAddrPort("192.0.2.1:40000")
	client4    = netip.MustParseAddrPort("203.0.113.9:4711")
	client6    = netip.MustParseAddrPort("[2001:db8::9]:4711")
	dest4      = netip.MustParseAddrPort("192.0.2.80:80")
	dest6      = netip.MustParseAddrPort("[2001:db8::80]:80")
	serverA    = forward.Endpoint{Addr: netip.MustParseAddrPort("198.51.100.1:80")}
	serverB    = forward.Endpoint{Addr: netip.MustParseAddrPort("198.51.100.2:80")}
	serverC    = forward.Endpoint{Addr: netip.MustParseAddrPort("198.51.100.3:80")}
	serverA6   = forward.Endpoint{Addr: netip.MustParseAddrPort("[2001:db8:1::1]:80")}
	serverB6   = forward.Endpoint{Addr: netip.MustParseAddrPort("[2001:db8:1::2]:80")}
	serverUnix = forward.Endpoint{Path: "@backend"}
)

// header is a version 1 header that names client4.
const header = "PROXY TCP4 203.0.113.9 192.0.2.80 4711 80\r\n"

// prefixes is a set of addresses.
type prefixes []netip.Prefix

func (s prefixes) Contains(a netip.Addr) bool {
	for _, p := range s {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// only is the set of one address.
func only(a netip.AddrPort) prefixes { return prefixes{netip.PrefixFrom(a.Addr(), a.Addr().BitLen())} }

var anyAddress = prefixes{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// rig is an engine on a scripted kernel. The test runs its loops step by step.
type rig struct {
	testing.TB
	*script
	engine  *Engine
	records []record.Connection
	notices []Notice
	events  []unix.EpollEvent
}

// plainForward is a forward that trusts the load balancer.
func plainForward(backends ...forward.Endpoint) *forward.Forward {
	f := &forward.Forward{
		Listeners: []forward.Listener{
			{Name: "front", Endpoint: forward.Endpoint{Addr: netip.MustParseAddrPort("192.0.2.80:80")}},
		},
		Trust:          only(lb),
		Headers:        1,
		HeaderTimeout:  5 * time.Second,
		ConnectTimeout: 6 * time.Second,
	}
	for _, b := range backends {
		f.Listeners[0].Backends = append(f.Listeners[0].Backends, forward.Backend{Endpoint: b})
	}
	return f
}

// transparently makes a forward transparent.
func transparently(f *forward.Forward) *forward.Forward {
	f.Transparent = true
	return f
}

func newRig(t testing.TB, k *script, c Config) *rig {
	t.Helper()
	r := &rig{TB: t, script: k, events: make([]unix.EpollEvent, maxEvents)}
	if k.random != nil {
		r.events = r.events[:1+k.random.IntN([]int{8, 32}[k.random.IntN(2)])]
	}
	if c.Kernel == nil {
		c.Kernel = k
	}
	if c.Report == nil {
		c.Report = func(rec *record.Connection) {
			r.records = append(r.records, *rec)
			if !rec.Outcome.Possible(rec.Phase) {
				t.Errorf("%v in %v is not possible according to package record", rec.Outcome, rec.Phase)
			}
		}
	}
	c.Notice = func(n Notice) { r.notices = append(r.notices, n) }
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.engine = e
	e.names.start(t.Context())
	for _, l := range e.loops {
		for _, ln := range l.listeners {
			l.watchListener(ln)
		}
	}
	t.Cleanup(e.names.close)
	return r
}

// newForwardRig is a rig with one loop and one forward.
func newForwardRig(t testing.TB, f *forward.Forward) *rig {
	t.Helper()
	return newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{f}})
}

// tally returns the counters of the first forward.
func (r *rig) tally() *record.ForwardTally {
	r.Helper()
	all, err := r.engine.Tallies(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return &all[0]
}

func (r *rig) loop() *loop { return r.engine.loops[0] }

// listenerSocket returns the socket of the i-th listener.
func (r *rig) listenerSocket(i int) *file { return r.files[r.engine.listeners[i].fd-3] }

// turn runs one turn of every loop and reports whether more work is left.
func (r *rig) turn() (busy bool) {
	for _, l := range r.engine.loops {
		l.turn(r.events)
	}
	for _, l := range r.engine.loops {
		ready := len(r.files[l.poller-3].list)
		busy = busy || ready > 0 || len(l.runQueue) > 0 || l.mail.unread.Load() || l.cutting ||
			l.untilDeadline() == 0 || len(r.pending) > r.neverAnswered()
	}
	return busy
}

// awaitTail moves the clock to when a loop reads a tail, and reports whether one waits for that.
func (r *rig) awaitTail() bool {
	for _, l := range r.engine.loops {
		if f := l.flows.first(); f != nil {
			r.clock = max(r.clock, f.due)
			return true
		}
	}
	return false
}

// neverAnswered counts the connects that the script never answers.
func (r *rig) neverAnswered() (n int) {
	for _, f := range r.pending {
		if f.plan.waits < 0 {
			n++
		}
	}
	return n
}

// settle turns the loops until they have nothing left to do.
func (r *rig) settle() {
	r.Helper()
	for range 20000 {
		if !r.turn() && !r.awaitTail() {
			return
		}
	}
	r.Fatal("the loops do not settle")
}

// advance moves the clock forward in steps of at most a second, and settles after each.
func (r *rig) advance(d time.Duration) {
	for ; d > 0; d -= time.Second {
		r.clock += int64(min(d, time.Second))
		r.settle()
	}
}

// open makes a connection from the load balancer, which sends b at once.
func (r *rig) open(b string) *file { return r.openFrom(0, lb, b) }

func (r *rig) openFrom(listener int, from netip.AddrPort, b string) *file {
	f := r.arrive(r.listenerSocket(listener), from)
	f.deliver([]byte(b))
	r.settle()
	return f
}

// backend returns the gateway's socket of the last connect.
func (r *rig) backend() *file {
	r.Helper()
	if len(r.dials) == 0 {
		r.Fatal("no backend was dialled")
	}
	return r.dials[len(r.dials)-1].far
}

// lastRecord returns the last record. There must be n of them.
func (r *rig) lastRecord(n int) record.Connection {
	r.Helper()
	if len(r.records) != n {
		r.Fatalf("%d connections were reported, want %d", len(r.records), n)
	}
	return r.records[n-1]
}

// expectEnd checks how the last of n connections ended, and returns its record.
func (r *rig) expectEnd(n int, outcome record.Outcome, phase record.Phase, by record.Party) record.Connection {
	r.Helper()
	c := r.lastRecord(n)
	if c.Outcome != outcome || c.Phase != phase || c.By != by {
		r.Errorf("ended %v in %v by %v (%s), want %v in %v by %v", c.Outcome, c.Phase, c.By, c.Reason, outcome,
			phase, by)
	}
	if c.Duration < c.HeaderTime+c.ConnectTime {
		r.Errorf("took %v, shorter than header %v and connect %v", c.Duration, c.HeaderTime, c.ConnectTime)
	}
	return c
}

// expectClean checks that all connections have released everything.
func (r *rig) expectClean() {
	r.Helper()
	if n := r.leaked(stream); n != 0 {
		r.Errorf("%d sockets are open", n)
	}
	if n := r.engine.Counters().Active; n != 0 {
		r.Errorf("%d connections are active", n)
	}
	if n := r.engine.buffers.held.Load(); n != 0 {
		r.Errorf("%d bytes are counted as held", n)
	}
	for _, l := range r.engine.loops {
		r.expectCleanLoop(l)
	}
	r.expectTallies()
	for _, f := range r.engine.forwards {
		if f.clients.Len() != 0 || f.active.Load() != 0 {
			r.Errorf("%d clients and %d connections are counted", f.clients.Len(), f.active.Load())
		}
	}
}

func (r *rig) expectCleanLoop(l *loop) {
	r.Helper()
	if f := &l.flows; f.first() != nil || len(f.free) != len(f.pairs) {
		r.Errorf("%d of %d flows are free, a tail is expected: %v", len(f.free), len(f.pairs), f.first() != nil)
	}
	if l.wheel.count != 0 {
		r.Errorf("%d timers are armed", l.wheel.count)
	}
	unused := 0
	for next := l.sessions.free; next != 0; next = l.sessions.at(uint32(next - 1)).id {
		unused++
	}
	if n := l.active.Load(); n != 0 || unused != l.sessions.len() {
		r.Errorf("%d sessions are active, %d of %d free", n, unused, l.sessions.len())
	}
	for s := range l.sessions.from(0, l.sessions.len()) {
		for i, d := range s.sides {
			if s.state != free || d.fd != -1 || d.held != nil || d.charged != 0 || d.pipe != nil {
				r.Errorf("free session %d has side %d: %+v", s.index, i, d)
			}
		}
	}
	for _, p := range l.pipes.idle {
		if n := len(r.files[p.Read-3].pipe.bytes); n != 0 || p.n != 0 {
			r.Errorf("an idle pipe holds %d bytes", n)
		}
	}
	if n := r.leaked(pipeRead, pipeWrite); len(r.engine.loops) == 1 && n != 2*len(l.pipes.idle) {
		r.Errorf("%d ends of pipes are open, %d pipes are idle", n, len(l.pipes.idle))
	}
}

// v2 is a version 2 header; without a source it is LOCAL.
func v2(source, destination netip.AddrPort, tlvs ...proxyproto.TLV) string {
	m := proxyproto.Message{Source: source, Destination: destination, TLVs: tlvs}
	if source.IsValid() {
		m.Command = proxyproto.CommandProxy
	}
	b, err := proxyproto.AppendV2(nil, &m)
	if err != nil {
		panic(err)
	}
	return string(b)
}
