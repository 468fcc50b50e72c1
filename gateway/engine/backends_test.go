package engine

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
)

// remembering makes a forward remember failures for ten seconds.
func remembering(f *forward.Forward) *forward.Forward {
	f.BackendRetry = 10 * time.Second
	return f
}

// serve makes a connection that is served after at most the connect timeout, ends it, and returns
// the backends that were dialled for it, in order.
func (r *rig) serve() []forward.Endpoint {
	r.Helper()
	r.dials = nil
	from := r.open(header)
	r.advance(7 * time.Second)
	finishBoth(r, from)
	if c := r.records[len(r.records)-1]; c.Outcome != record.OK {
		r.Errorf("ended %v: %s", c.Outcome, c.Reason)
	}
	return r.dialOrder()
}

func (r *rig) expectOrder(when string, want ...forward.Endpoint) {
	r.Helper()
	if got := r.serve(); !slices.Equal(got, want) {
		r.Errorf("%s: dialled %v, want %v", when, got, want)
	}
}

func (r *rig) changes() (all []string) {
	for _, n := range r.notices {
		all = append(all, n.Event+" "+n.Forward+" "+n.Detail)
	}
	return all
}

func (r *rig) expectNotices(want ...string) {
	r.Helper()
	if got := r.changes(); !slices.Equal(got, want) {
		r.Errorf("notices %q, want %q", got, want)
	}
	r.notices = nil
}

// A backend that refused or timed out costs one connection, not each. The control remembers nothing.
func TestFailedBackendIsTriedLast(t *testing.T) {
	for name, failing := range map[string]plan{"silent": silent, "refused": refused, "unreachable": unreachable,
		"at once": {errno: unix.ECONNREFUSED}, "early": {result: unix.ECONNREFUSED}} {
		for _, to := range []forward.Endpoint{serverA, serverUnix} {
			if to.IsUnix() && name != "at once" {
				continue
			}
			for _, retry := range []time.Duration{0, time.Minute} {
				f := plainForward(to, serverB)
				f.BackendRetry = retry
				r := newForwardRig(t, f)
				r.plans[to] = []plan{failing}
				r.expectOrder(name+", first", to, serverB)
				if retry == 0 {
					r.expectOrder(name+", control", to, serverB)
					r.expectNotices()
					continue
				}
				r.expectOrder(name+", second", serverB)
				r.expectOrder(name+", third", serverB)
				r.expectNotices("backend_down front " + to.String())
				r.expectClean()
			}
		}
	}
}

// After the retry time one connection tests the backend, while others avoid it. If it answers, it is
// first again.
func TestFailedBackendIsTriedAgain(t *testing.T) {
	f := remembering(plainForward(serverA, serverB))
	r := newForwardRig(t, f)
	r.plans[serverA] = []plan{silent}
	r.expectOrder("at first", serverA, serverB)
	r.advance(10 * time.Second)
	r.dials = nil
	r.open(header) // tests it and waits
	r.open(header)
	if got := r.dialOrder(); !slices.Equal(got, []forward.Endpoint{serverA, serverB}) {
		t.Errorf("two connections at once dialled %v", got)
	}
	r.advance(4 * time.Second)
	r.expectOrder("after it failed again", serverB)
	r.expectNotices("backend_down front " + serverA.String())
	r.plans[serverA] = nil
	r.advance(10 * time.Second)
	r.expectOrder("once it answers", serverA)
	r.expectOrder("then", serverA)
	r.expectNotices("backend_up front " + serverA.String())
}

// Without a connect timeout a silent backend is left for another one, but the last is waited for.
func TestFailoverWithoutConnectTimeout(t *testing.T) {
	f := plainForward(serverA, serverB)
	f.ConnectTimeout = 0
	r := newForwardRig(t, f)
	r.plans[serverA], r.plans[serverB] = []plan{silent}, []plan{silent}
	r.open(header)
	r.advance(time.Hour)
	if got := r.dialOrder(); !slices.Equal(got, []forward.Endpoint{serverA, serverB}) || len(r.records) != 0 {
		t.Errorf("dialled %v, %d connections ended", got, len(r.records))
	}
}

// If all are down they are tried in the operator's order, each once, and the first that answers is
// up. What changes during a connection makes it neither skip nor repeat one.
func TestAllBackendsDown(t *testing.T) {
	f := remembering(plainForward(serverA, serverB, serverC))
	r := newForwardRig(t, f)
	for _, e := range []forward.Endpoint{serverA, serverB, serverC} {
		r.plans[e] = []plan{refused}
	}
	for range 2 {
		r.dials = nil
		r.open(header)
		r.settle()
		if got := r.dialOrder(); !slices.Equal(got, []forward.Endpoint{serverA, serverB, serverC}) {
			t.Errorf("dialled %v", got)
		}
	}
	r.expectEnd(2, record.BackendRefused, record.Dial, record.Backend)
	r.plans[serverC] = nil
	r.expectOrder("one answers", serverA, serverB, serverC)
	r.expectOrder("then", serverC)
	r.expectClean()
}

// The family of the client comes first only among the backends that are up.
func TestFailedBackendOfClientFamily(t *testing.T) {
	r := newForwardRig(t, remembering(plainForward(serverA6, serverA, serverB6)))
	r.plans[serverA] = []plan{refused}
	r.expectOrder("at first", serverA, serverA6)
	r.expectOrder("then", serverA6)
}

// Banned by the backend's firewall, one client must not make the backend the last choice for all:
// the gateway tests it from its own address first.
func TestOneClientDoesNotMarkBackendDown(t *testing.T) {
	f := transparently(remembering(plainForward(serverA, serverB)))
	f.Source.SourcePort = 0
	var answer error
	tested := 0
	connect := func(_ context.Context, to forward.Endpoint, _ Origin) error {
		tested++
		if to != serverA {
			t.Errorf("%v was tested", to)
		}
		return answer
	}
	r := newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{f}, Connect: connect})
	b := r.engine.forwards[0].backends
	r.plans[serverA] = []plan{refused}
	for range 3 {
		r.expectOrder("while only clients are refused", serverA, serverB)
		r.engine.checks.testSuspect(t.Context(), b, <-b.suspects)
	}
	r.expectNotices()
	answer = unix.ECONNREFUSED
	r.expectOrder("before the test", serverA, serverB)
	r.engine.checks.testSuspect(t.Context(), b, <-b.suspects)
	r.expectOrder("after it", serverB)
	r.expectNotices("backend_down front " + serverA.String())
	if tested != 4 || len(b.suspects) != 0 {
		t.Errorf("%d tests, %d wait", tested, len(b.suspects))
	}
}

// Clients that fail at the same time request one test, and never wait for it.
func TestSuspicionsAreBounded(t *testing.T) {
	f := transparently(remembering(plainForward(serverA)))
	b := NewBackends(f, nil)
	for i := range int64(100) {
		b.Failed(serverA, unix.ECONNREFUSED, int64(time.Hour)+i, true)
	}
	if len(b.suspects) != 1 {
		t.Errorf("%d tests were requested", len(b.suspects))
	}
	for i := range int64(100) {
		b.Failed(serverA, unix.ECONNREFUSED, int64(time.Hour)+i*int64(time.Minute), true)
	}
	if len(b.suspects) != maxSuspects {
		t.Errorf("%d tests wait, want %d", len(b.suspects), maxSuspects)
	}
}

// The addresses of a name are remembered one by one, and forgotten when the name leaves them.
func TestFailedAddressOfName(t *testing.T) {
	f := remembering(plainForward())
	f.Listeners[0].Backends = []forward.Backend{{Host: "server.test", Port: 80}}
	addrs := []netip.Addr{serverA.Addr.Addr(), serverB.Addr.Addr()}
	lookup := func(context.Context, string) ([]netip.Addr, error) { return addrs, nil }
	r := newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{f}, Lookup: lookup})
	r.plans[serverA] = []plan{refused}
	r.expectOrder("at first", serverA, serverB)
	r.expectOrder("then", serverB)
	r.expectNotices("backend_down front server.test:80 (198.51.100.1:80)")
	b := r.engine.forwards[0].backends
	now := []netip.Addr{serverC.Addr.Addr()}
	b.names[0].name.addresses.Store(&now)
	b.Failed(serverC, unix.ECONNREFUSED, r.clock, false)
	if n := len(*b.states.Load()); n != 1 || b.down.Load() != 1 {
		t.Errorf("%d states, %d down, want only the new address", n, b.down.Load())
	}
	if got := r.engine.Backends(); len(got) != 1 || got[0].Up || got[0].LastError != "connection refused" || got[0].Since.IsZero() {
		t.Errorf("backends %+v", got)
	}
	now = nil
	b.names[0].name.addresses.Store(&now)
	if got := r.engine.Backends(); len(got) != 1 || got[0].Up || got[0].Backend != "server.test:80" {
		t.Errorf("backends of a name that does not resolve: %+v", got)
	}
	if b.anyUp() {
		t.Error("a name that does not resolve is up")
	}
}

// While some addresses go down, others are added that make Backends forget those without a name. The
// number of those that are down stays right: if it did not, each connection would pay for it.
func TestForgottenWhileGoingDown(t *testing.T) {
	b := NewBackends(remembering(plainForward(serverA)), nil)
	at := func(host byte, i int) forward.Endpoint {
		return forward.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, host, byte(i >> 8), byte(i)}), 80)}
	}
	const rounds = 20_000
	var adding sync.WaitGroup
	adding.Go(func() {
		for i := range rounds {
			b.add(at(1, i))
		}
	})
	for i := range rounds {
		b.setDown(at(2, i), untilChecked, unix.ECONNREFUSED)
	}
	adding.Wait()
	down := int32(0)
	for _, s := range *b.states.Load() {
		if s.downUntil.Load() != 0 {
			down++
		}
	}
	if got := b.down.Load(); got != down {
		t.Errorf("%d count as down, %d are", got, down)
	}
}

// Destinations that headers name are not remembered, however many fail.
func TestDestinationsAreNotRemembered(t *testing.T) {
	f := remembering(plainForward(serverB))
	f.Listeners[0].Backends = append([]forward.Backend{{FromHeader: true}}, f.Listeners[0].Backends...)
	f.AllowDestination = anyAddress
	r := newForwardRig(t, f)
	r.plans[forward.Endpoint{Addr: dest4}] = []plan{refused}
	for range 2 {
		r.dials = nil
		from := r.open("PROXY TCP4 203.0.113.9 192.0.2.81 4711 80\r\n")
		finishBoth(r, from)
	}
	if b := r.engine.forwards[0].backends; len(*b.states.Load()) != 1 || b.down.Load() != 0 {
		t.Errorf("%d states", len(*b.states.Load()))
	}
	r.expectNotices()
}

// Errors of the gateway's own, and refusals where servers listen on demand, say nothing about a
// backend.
func TestWhatMakesABackendDown(t *testing.T) {
	for _, row := range []struct {
		errno    syscall.Errno
		onDemand bool
		down     bool
	}{
		{unix.ECONNREFUSED, false, true}, {unix.ETIMEDOUT, false, true}, {unix.EHOSTUNREACH, false, true},
		{unix.ENOENT, false, true}, {unix.ECONNREFUSED, true, false}, {unix.ETIMEDOUT, true, true},
		{unix.EMFILE, false, false}, {unix.EADDRNOTAVAIL, false, false}, {unix.EPERM, false, false},
		{unix.EAGAIN, false, false},
	} {
		f := remembering(plainForward(serverA))
		f.OnDemand = row.onDemand
		b := NewBackends(f, nil)
		b.Failed(serverA, row.errno, int64(time.Hour), false)
		if got := !b.list()[0].Up; got != row.down {
			t.Errorf("%v, on demand %v: down is %v", row.errno, row.onDemand, got)
		}
	}
}

// A backend that answers every other connection changes at most once a second.
func TestUnsteadyBackend(t *testing.T) {
	notices := 0
	b := NewBackends(remembering(plainForward(serverA)), func(Notice) { notices++ })
	now := int64(time.Hour)
	for range 1000 {
		b.Failed(serverA, unix.ECONNREFUSED, now, false)
		b.Succeeded(serverA, now)
		now += int64(time.Millisecond)
	}
	if notices != 2 {
		t.Errorf("%d reports in a second", notices)
	}
}

// A check finds out that a backend is down before any connection, and that it is up. A forward none
// of whose backends answers is without a backend.
func TestChecks(t *testing.T) {
	f := plainForward(serverA, serverB)
	f.BackendCheck = time.Second
	down := map[forward.Endpoint]error{serverA: context.DeadlineExceeded}
	connect := func(_ context.Context, to forward.Endpoint, _ Origin) error { return down[to] }
	r := newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{f}, Connect: connect})
	b := r.engine.forwards[0].backends
	check := func() {
		for _, e := range b.endpoints() {
			r.engine.checks.check(t.Context(), b, e)
		}
	}
	r.expectOrder("before a check", serverA)
	check()
	check()
	r.expectNotices("backend_down front " + serverA.String())
	r.expectOrder("after it", serverB)
	r.advance(time.Hour)
	r.expectOrder("until another one", serverB)
	down[serverB] = unix.ECONNREFUSED
	if got := r.engine.WithoutBackend(); len(got) != 0 {
		t.Errorf("without a backend: %d", got)
	}
	check()
	if got := r.engine.WithoutBackend(); !slices.Equal(got, []int{0}) {
		t.Errorf("without a backend: %d", got)
	}
	if got := r.engine.Backends()[0].LastError; got != "connection timed out" {
		t.Errorf("last error %q", got)
	}
	r.expectOrder("all are down", serverA) // which is up by that
	clear(down)
	check()
	r.expectNotices("backend_down front "+serverB.String(), "backend_up front "+serverA.String(),
		"backend_up front "+serverB.String())
}

// The checks run from the start until the gateway stops to accept.
func TestChecksRunAndStop(t *testing.T) {
	f := plainForward(serverA, serverB)
	f.BackendCheck = 10 * time.Millisecond
	checked := make(chan forward.Endpoint)
	connect := func(ctx context.Context, to forward.Endpoint, _ Origin) error {
		select {
		case checked <- to:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	var c checks
	c.connect, c.now = connect, func() int64 { return 1 }
	b := NewBackends(f, nil)
	c.start([]*forwardState{{Forward: f, backends: b}})
	seen := map[forward.Endpoint]bool{}
	for len(seen) < 2 {
		seen[<-checked] = true
	}
	c.close()
}

// What a check finds on real sockets: a listener, a port where nothing listens, unix sockets, and a
// deadline.
func TestConnectOwn(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := forward.Endpoint{Addr: netip.MustParseAddrPort(tcp.Addr().String())}
	path := filepath.Join(t.TempDir(), "backend")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	for e, want := range map[forward.Endpoint]error{open: nil, {Path: path}: nil, {Path: path + "2"}: unix.ENOENT} {
		if got := connectOwn(t.Context(), e, Origin{}); got != want {
			t.Errorf("%v: %v, want %v", e, got, want)
		}
	}
	tcp.Close()
	l.Close()
	if got := connectOwn(t.Context(), open, Origin{}); got != unix.ECONNREFUSED {
		t.Errorf("closed port: %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	c := checks{connect: connectOwn}
	if got := c.test(ctx, open, plainForward()); got != unix.ETIMEDOUT {
		t.Errorf("past the deadline: %v", got)
	}
}

// A connection beside a backend that is down allocates nothing.
func TestPreferAllocatesNothing(t *testing.T) {
	r := newSteadyRig(t, remembering(plainForward(serverA, serverB)))
	b := r.engine.forwards[0].backends
	for _, state := range []string{"up", "down"} {
		if state == "down" {
			b.setDown(serverA, untilChecked, unix.ECONNREFUSED)
		}
		first, second := []byte(header), []byte("GET / HTTP/1.0\r\n\r\n")
		r.roundTrip(first, second)
		if n := allocations.PerRun(200, func() { r.roundTrip(first, second) }); n != 0 {
			t.Errorf("%v allocations while a backend is %s", n, state)
		}
		if to := r.dials[0].to; (to == serverB) != (state == "down") {
			t.Errorf("dialled %v while the first is %s", to, state)
		}
	}
}
