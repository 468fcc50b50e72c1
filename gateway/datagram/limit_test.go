package datagram

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// client returns the n-th client's address.
func client(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(n >> 8), byte(n)}), 4711)
}

func at(n int) string { return v2(client(n), dest4) }

// At the limit the flow that has been idle longest is evicted and counted.
func TestMaxFlowsEvictsLongestIdle(t *testing.T) {
	for _, row := range []struct {
		name   string
		config Config
		own    int
	}{{"of all", Config{MaxFlows: 3}, 0}, {"of the forward", Config{}, 3}} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, 1, row.config, with(plain(server), func(f *forward.Forward) { f.MaxFlows = row.own }))
			for i := range 3 {
				r.from(lb, at(i)+"x")
				r.pass(time.Second)
			}
			r.from(lb, at(0)+"again")
			r.from(lb, at(3)+"x")
			c := r.ended(1, record.Limit, record.Gateway)
			if c.Client.Addr() != netip.MustParseAddr("203.0.0.1") {
				t.Errorf("the flow of %v was evicted, want that of 203.0.0.1", c.Client)
			}
			if n := r.relay.Counters(); n.Flows != 3 || n.Evicted != 1 || n.Opened != 4 {
				t.Errorf("counted %+v", n)
			}
			r.dropped(nil)
		})
	}
}

// A reply counts as activity like a datagram.
func TestReplyCountsAsActivity(t *testing.T) {
	r := newRig(t, 1, Config{MaxFlows: 2}, plain(server))
	r.from(lb, a+"x")
	r.pass(time.Second)
	r.from(lb, b+"x")
	r.pass(time.Second)
	r.answer(r.backs()[0], "reply")
	r.from(lb, at(1)+"x")
	if c := r.ended(1, record.Limit, record.Gateway); c.Client != clientB {
		t.Errorf("the flow of %v was evicted, want that of %v", c.Client, clientB)
	}
}

// The global limit evicts the flow that has been idle longest, of any forward.
func TestGlobalLimitEvictsAcrossForwards(t *testing.T) {
	other := plain(server)
	other.Listeners[0].Name, other.Listeners[0].Endpoint.Addr = "udp://other", netip.AddrPortFrom(listener4.Addr(), 54)
	r := newRig(t, 1, Config{MaxFlows: 2}, plain(server), other)
	r.listenerSocket(1).queue = append(r.listenerSocket(1).queue, datagram{peer: lb, data: a + "x"})
	r.settle()
	r.pass(time.Second)
	r.from(lb, a+"x")
	r.pass(time.Second)
	r.from(lb, b+"x")
	if c := r.ended(1, record.Limit, record.Gateway); c.Forward != "udp://other" {
		t.Errorf("a flow of %s was evicted, want udp://other", c.Forward)
	}
	r.pass(time.Second)
	r.from(lb, at(1)+"x")
	if c := r.ended(2, record.Limit, record.Gateway); c.Client != clientA || c.Forward != "udp://first" {
		t.Errorf("the flow of %v at %s was evicted", c.Client, c.Forward)
	}
}

// With a limit of one, two clients in the same batch each get their own flow.
func TestMaxFlowsOne(t *testing.T) {
	r := newRig(t, 1, Config{MaxFlows: 1}, plain(server))
	r.from(lb, a+"one", a+"two", b+"three", a+"four")
	var got []string
	for _, s := range r.sockets[1:] {
		got = append(got, texts(s.sent)...)
	}
	if len(got) != 4 || got[2] != "three" || len(r.backs()) != 1 {
		t.Errorf("received %q over %d open flows", got, len(r.backs()))
	}
	r.last(2)
}

// With several loops, the loop with the most flows evicts one of its own.
func TestFullestLoopEvicts(t *testing.T) {
	r := newRig(t, 2, Config{MaxFlows: 4}, plain(server))
	for i := range 4 {
		r.from(lb, at(i)+"x")
		r.pass(time.Second)
	}
	second := r.sockets[r.hosts[1].guest.listeners[0].fd-3]
	for i := range 2 {
		second.queue = append(second.queue, datagram{peer: lbOther, data: at(10+i) + "x"})
		r.settle()
	}
	r.last(2)
	if n := r.relay.flows; n[0].Load() != 2 || n[1].Load() != 2 {
		t.Errorf("%d and %d flows, want 2 and 2", n[0].Load(), n[1].Load())
	}
}

// When file descriptors or ports run out, a flow is evicted.
func TestExhaustedDescriptorsAndPortsEvict(t *testing.T) {
	r := one(t, plain(server))
	r.limit = 1 + 2
	for i := range 5 {
		r.from(lb, at(i)+"x")
	}
	r.last(3)
	if n := r.relay.Counters(); n.Flows != 2 || n.Evicted != 3 {
		t.Errorf("counted %+v", n)
	}
	ports := []syscall.Errno{unix.EAGAIN}
	r.connectError = func(netip.AddrPort, netip.AddrPort) syscall.Errno { return next(&ports) }
	r.limit = 0
	r.from(lb, at(9)+"x")
	r.last(4)
	r.dropped(nil)
}

// A client at its limit gets no new flow until one of its flows ends.
func TestMaxPerClient(t *testing.T) {
	r := one(t, with(plain(server), func(f *forward.Forward) { f.MaxConnectionsPerClient = 2 }))
	client := func(port uint16) string { return v2(netip.AddrPortFrom(clientA.Addr(), port), dest4) }
	r.from(lb, client(1)+"x", client(2)+"x", client(3)+"x", client(1)+"y", b+"x", local+"x", local+"y")
	if n := r.relay.Counters(); n.Flows != 4 {
		t.Errorf("%d flows, want two of the client and two others", n.Flows)
	}
	r.dropped(map[Drop]uint64{Limit: 1})
	r.pass(time.Minute + time.Second)
	r.from(lb, client(3)+"x")
	r.dropped(map[Drop]uint64{Limit: 1})
	r.pass(time.Minute + time.Second)
	r.clean()
}

// While the gateway drains, new flows are dropped and existing ones continue until they are idle.
func TestDrainKeepsFlows(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a+"one", b+"one")
	h := r.hosts[0]
	r.pass(10 * time.Second)
	r.from(lb, a+"two")
	h.guest.StopAccepting()
	h.guest.StopAccepting()
	r.from(lb, at(1)+"x", a+"three")
	r.dropped(map[Drop]uint64{Draining: 1})
	if len(r.notices) != 0 {
		t.Errorf("reported %+v", r.notices)
	}
	r.pass(time.Second)
	if c := r.ended(1, record.OK, record.Timeout); c.Client != clientB {
		t.Errorf("the flow of %v ended, want the idle one", c.Client)
	}
	s := r.back()
	r.answer(s, "still here")
	r.went(to(lb, "still here"))
	if h.held != 1 {
		t.Errorf("%d flows are held, want 1", h.held)
	}
	r.pass(6 * time.Second)
	r.ended(2, record.OK, record.Timeout)
	r.clean()
}

// Cut ends the remaining flows. Everything is closed once.
func TestCutEndsFlowsOnce(t *testing.T) {
	r := newRig(t, 2, Config{}, plain(server))
	r.from(lb, a+"one")
	for _, h := range r.hosts {
		h.guest.Cut()
	}
	r.ended(1, record.Drained, record.Gateway)
	r.from(lb, a+"one")
	r.from(unknown, a)
	for _, h := range r.hosts {
		h.guest.Close()
		h.guest.Close()
	}
	r.ended(2, record.Drained, record.Gateway)
	if n := r.open(); n != 0 || len(r.notices) != 1 {
		t.Errorf("%d sockets are open and %d notices, want 0 and 1", n, len(r.notices))
	}
}

// The first socket is bound before it shares its address, so an address in use is detected. The
// other loops' sockets are bound to the resulting address.
func TestListenersShareAnAddressAfterBind(t *testing.T) {
	wildcard := func(f *forward.Forward) {
		f.Listeners[0].Endpoint.Addr, f.Listeners[0].DualStack = netip.MustParseAddrPort("[::]:0"), true
	}
	r := newRig(t, 2, Config{}, with(plain(server), wildcard))
	first, second := r.sockets[0], r.sockets[1]
	if len(first.order) != 2 || first.order[0] != "bind" || first.order[1] != "share" {
		t.Errorf("the first socket: %q", first.order)
	}
	if len(second.order) != 2 || second.order[0] != "share" || second.bound != first.bound || first.bound.Port() == 0 {
		t.Errorf("the second socket: %q, bound to %v; the first to %v", second.order, second.bound, first.bound)
	}
	for _, s := range r.sockets {
		if s.options[[2]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}] != 0 || s.options[[2]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO}] != 1 ||
			s.options[[2]int{unix.SOL_SOCKET, unix.SO_REUSEADDR}] != 0 {
			t.Errorf("options %v", s.options)
		}
	}
	if bound := r.relay.Bound(); len(bound) != 1 || bound[0].Addr != first.bound {
		t.Errorf("bound to %v, want %v", bound, first.bound)
	}
	r = one(t, with(plain(server), wildcard))
	if s := r.sockets[0]; len(s.order) != 1 {
		t.Errorf("the only socket: %q, want it not shared", s.order)
	}
	// Transparent clients may use the port of a wildcard listener.
	for port, shared := range map[transparent.SourcePort]int{transparent.Prefer: 1, transparent.Keep: 1, transparent.Any: 0} {
		r = one(t, with(plain(server), func(f *forward.Forward) {
			wildcard(f)
			f.Transparent, f.Source.SourcePort = true, port
		}))
		if s := r.sockets[0]; len(s.order) != 1+shared || s.order[0] != "bind" {
			t.Errorf("the only socket, transparent with source port %v: %q", port, s.order)
		}
	}
}

// On a host without IPv6, a dual-stack listener listens on IPv4.
func TestListeningWithoutIPv6(t *testing.T) {
	f := with(plain(server), func(f *forward.Forward) {
		f.Listeners[0].Endpoint.Addr, f.Listeners[0].DualStack = netip.MustParseAddrPort("[::]:53"), true
	})
	k := newScript(t)
	k.socketErrors = []syscall.Errno{unix.EAFNOSUPPORT}
	relay := New(Config{Kernel: k})
	routes := []*engine.Route{{Forward: f, Listener: &f.Listeners[0]}}
	r := &rig{TB: t, script: k}
	for i := range 2 {
		if _, err := relay.Guest(&scriptedHost{rig: r, index: i, loops: 2, watched: map[int]uint64{}}, routes); err != nil {
			t.Fatal(err)
		}
	}
	want := netip.MustParseAddrPort("0.0.0.0:53")
	if relay.Bound()[0].Addr != want || k.sockets[0].bound != want || k.sockets[1].bound != want {
		t.Errorf("bound to %v: %v and %v, want %v", relay.Bound(), k.sockets[0].bound, k.sockets[1].bound, want)
	}
}

// A listener that cannot be opened is reported by name, and nothing stays open.
func TestListeningFails(t *testing.T) {
	f := plain(server)
	second := f.Listeners[0]
	second.Name = "udp://second"
	f.Listeners = append(f.Listeners, second)
	k := newScript(t)
	binds := []syscall.Errno{0, unix.EADDRINUSE}
	k.bindError = func(netip.AddrPort) syscall.Errno { return next(&binds) }
	relay := New(Config{Kernel: k})
	routes := []*engine.Route{{Forward: f, Listener: &f.Listeners[0]}, {Forward: f, Listener: &f.Listeners[1]}}
	_, err := relay.Guest(&scriptedHost{rig: &rig{TB: t, script: k}, loops: 1, watched: map[int]uint64{}}, routes)
	var e *engine.ListenError
	if !errors.As(err, &e) || e.Name != "udp://second" || !errors.Is(err, unix.EADDRINUSE) || k.open() != 0 || k.batches != 0 {
		t.Errorf("error %v, %d sockets and %d batches are open", err, k.open(), k.batches)
	}
}

// A flow that has sent one datagram and got no reply makes room first, even if others have been
// silent longer. While such flows are few, each has a second to get an answer.
func TestUnprovenFlowsGoFirst(t *testing.T) {
	const limit = 8
	fill := func(t *testing.T, proven int) *rig {
		r := newRig(t, 1, Config{MaxFlows: limit}, plain(server))
		for i := range proven {
			r.from(lb, at(i)+"x")
			if i%2 == 0 {
				r.answer(r.backs()[i], "reply")
			} else {
				r.from(lb, at(i)+"again")
			}
		}
		r.pass(10 * time.Second)
		for i := proven; i < limit; i++ {
			r.from(lb, at(i)+"x")
		}
		return r
	}
	evicted := func(t *testing.T, r *rig, n int) int {
		t.Helper()
		c := r.ended(n, record.Limit, record.Gateway)
		a := c.Client.Addr().As4()
		return int(a[2])<<8 | int(a[3])
	}
	t.Run("a flood evicts itself", func(t *testing.T) {
		r := fill(t, 4)
		for i := range 50 {
			r.from(lb, at(100+i)+"x")
			want := 4 + i // the oldest of those without an answer
			if i >= 4 {
				want = 100 + i - 4
			}
			if got := evicted(t, r, i+1); got != want {
				t.Fatalf("flow %d was evicted, want %d", got, want)
			}
		}
	})
	t.Run("one that waits for its answer is spared", func(t *testing.T) {
		r := fill(t, limit-1)
		r.from(lb, at(100)+"x")
		if got := evicted(t, r, 1); got != 0 {
			t.Errorf("flow %d was evicted, want 0, which was silent longest", got)
		}
	})
	t.Run("but not for ever", func(t *testing.T) {
		r := fill(t, limit-1)
		r.pass(time.Second)
		r.from(lb, at(100)+"x")
		if got := evicted(t, r, 1); got != limit-1 {
			t.Errorf("flow %d was evicted, want %d, which has no answer", got, limit-1)
		}
	})
}

// The lists of unproven flows agree with their flags, whatever happens to the flows.
func TestUnprovenListIsConsistent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	table, l := newTable(), &lruList{}
	var flows []*flow
	for step := range 5000 {
		switch n := len(flows); {
		case n == 0 || random.IntN(3) == 0:
			flows = append(flows, table.add(key{listener: uint32(step)}, l))
		case random.IntN(2) == 0:
			f := flows[random.IntN(n)]
			f.packetsIn++
			f.prove()
		default:
			i := random.IntN(n)
			table.remove(flows[i])
			flows = append(flows[:i], flows[i+1:]...)
		}
		want := map[*flow]bool{}
		for _, f := range flows {
			if f.packetsIn < 2 {
				want[f] = true
			}
		}
		seen := 0
		for f := l.unproven.oldest; f != nil; f = f.newer {
			if seen++; !want[f] || f.newer == nil && l.unproven.newest != f {
				t.Fatalf("step %d: the list is broken", step)
			}
		}
		if seen != len(want) || l.unproven.count != seen {
			t.Fatalf("step %d: %d in the list, %d counted, want %d", step, seen, l.unproven.count, len(want))
		}
	}
}

// A peer begins flows at --accept-rate. Its existing flows are not concerned.
func TestRateOfNewFlows(t *testing.T) {
	r := one(t, with(plain(server), func(f *forward.Forward) { f.AcceptRate = forward.Rate{PerSecond: 1, Burst: 2} }))
	for i := range 5 {
		r.from(lb, at(i)+"x")
	}
	r.from(lb, at(0)+"goes on")
	if n := r.relay.Counters(); n.Flows != 2 || n.DatagramsIn != 3 {
		t.Errorf("counted %+v", n)
	}
	r.dropped(map[Drop]uint64{Limit: 3})
	r.pass(time.Second)
	r.from(lb, at(4)+"x")
	if n := r.relay.Counters(); n.Flows != 3 {
		t.Errorf("%d flows a second later, want 3", n.Flows)
	}
}

// The datagrams of a denied client, each of which would begin a flow, do not use up the accept
// rate of the peer, which its other clients need.
func TestDeniedClientSparesAcceptRate(t *testing.T) {
	r := one(t, with(plain(server), func(f *forward.Forward) {
		f.AcceptRate = forward.Rate{PerSecond: 1, Burst: 2}
		f.DenyClient = only(client(99))
	}))
	for range 10 {
		r.from(lb, at(99)+"x")
	}
	r.from(lb, at(1)+"x", at(2)+"x", at(3)+"x")
	if n := r.relay.Counters(); n.Flows != 2 {
		t.Errorf("counted %+v", n)
	}
	r.dropped(map[Drop]uint64{ClientDenied: 10, Limit: 1})
}

// A table that has become empty gives the memory of a burst back.
func TestEmptyTableShrinks(t *testing.T) {
	table, l := newTable(), &lruList{}
	var flows []*flow
	for i := range 10 * mostIdleFlows {
		flows = append(flows, table.add(key{listener: uint32(i)}, l))
	}
	for _, f := range flows {
		index, generation := f.index, f.generation
		table.remove(f)
		if table.at(index, generation) != nil {
			t.Fatal("a removed flow is found")
		}
	}
	if len(table.flows) > mostIdleFlows {
		t.Errorf("%d flows are kept", len(table.flows))
	}
}
