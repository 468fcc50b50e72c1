package datagram

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/await"
)

// succeed starts a relay on copies of the sockets of another, as the process that takes over does.
// change may modify its forward.
func (l *live) succeed(loops int, change func(*forward.Forward)) *live {
	l.Helper()
	f := loopback(net.UDPAddrFromAddrPort(l.to))
	f.Listeners[0].Endpoint = l.relay.Bound()[0]
	if change != nil {
		change(f)
	}
	sockets, err := l.relay.Sockets()
	if err != nil {
		l.Fatal(err)
	}
	f.Listeners[0].Shared = sockets
	next := &live{T: l.T, to: l.to, records: make(chan record.Connection, 8192)}
	next.relay = New(Config{Report: func(c *record.Connection) { next.records <- *c }})
	e, err := engine.New(engine.Config{Forwards: []*forward.Forward{f}, Loops: loops, Guest: next.relay.Guest})
	if err != nil {
		l.Fatal(err)
	}
	next.Engine = e
	e.Start()
	return next
}

// pass is an Exchange with the relay that takes over. It duplicates the descriptors, as unix
// sockets do.
func (l *live) pass(message []byte, fds []int) ([]byte, error) {
	var copies []int
	for _, fd := range fds {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break // the kernel also passes fewer descriptors
		}
		copies = append(copies, n)
	}
	return l.relay.Take(message, copies), nil
}

// namingEcho starts a backend that answers each datagram with the datagram and its source.
func namingEcho(t *testing.T) *net.UDPConn {
	t.Helper()
	back := listen(t)
	back.SetReadBuffer(4 << 20)
	go echo(back)
	return back
}

// Flows continue in another process, even with a different number of loops: with the same socket to
// the backend, the same counters and times, and in mode first without another header. Datagrams and
// replies queued during the handover arrive.
func TestRealHandover(t *testing.T) {
	for _, loops := range []int{1, 2, 3} {
		for _, mode := range []func(*forward.Forward){func(*forward.Forward) {}, first, simple} {
			f := with(loopback(net.UDPAddrFromAddrPort(serverB)), mode)
			t.Run(fmt.Sprintf("%v, from 2 loops to %d", f.DatagramHeader, loops), func(t *testing.T) {
				back := namingEcho(t)
				old := start(t, with(loopback(back.LocalAddr()), mode))
				next := old.succeed(loops, mode)
				defer next.Close()
				const peers = 20
				var conns []*net.UDPConn
				var answers []string
				for range peers {
					c := old.dial()
					send(t, c, datagramOf(f.DatagramHeader, true)+"x")
					conns, answers = append(conns, c), append(answers, read(t, c))
				}
				h, err := old.relay.HandOver(t.Context(), next.pass)
				if err != nil {
					t.Fatal(err)
				}
				if h.Taken != peers || len(h.Refused) != 0 {
					t.Errorf("%d flows were taken, refused %v", h.Taken, h.Refused)
				}
				for _, c := range conns { // no process receives now
					send(t, c, datagramOf(f.DatagramHeader, false)+"x")
				}
				h.Leave()
				next.relay.Serve()
				for i, c := range conns {
					if got := read(t, c); got != answers[i] {
						t.Errorf("flow %d: the answer is %q, want %q as before", i, got, answers[i])
					}
				}
				await.Until(t, "the flows have left", func() bool { return old.relay.Counters().Flows == 0 })
				if n := next.relay.Counters().Flows; n != peers {
					t.Errorf("%d flows are active, want %d", n, peers)
				}
				next.Cut()
				for range peers {
					if c := next.next(); c.DatagramsIn != 2 || c.DatagramsOut != 2 || c.Outcome != record.Drained || c.Duration <= 0 {
						t.Errorf("the record is %+v", c)
					}
				}
				if len(old.records) != 0 {
					t.Errorf("the old relay reported %+v", <-old.records)
				}
			})
		}
	}
}

// datagramOf returns a datagram of client A with its header.
func datagramOf(mode forward.DatagramHeader, first bool) string {
	switch {
	case mode == forward.SimpleProxy:
		return spp(clientA, dest4)
	case mode == forward.EveryDatagram || first:
		return a
	}
	return ""
}

// If the other process fails, at any message, the flows continue in the old process.
func TestFailedHandoverKeepsFlows(t *testing.T) {
	for failing := range 4 {
		t.Run(fmt.Sprint("at message ", failing), func(t *testing.T) {
			back := namingEcho(t)
			old := start(t, with(loopback(back.LocalAddr()), first))
			next := old.succeed(2, first)
			var conns []*net.UDPConn
			const flows = 2*mostFlowsAtOnce + 10 // at least four messages
			var answers []string
			for range flows {
				c := old.dial()
				send(t, c, a+"x")
				conns, answers = append(conns, c), append(answers, read(t, c))
			}
			n, gone := 0, errors.New("it has gone")
			_, err := old.relay.HandOver(t.Context(), func(message []byte, fds []int) ([]byte, error) {
				if n++; n > failing {
					return nil, gone
				}
				return next.pass(message, fds)
			})
			if !errors.Is(err, gone) {
				t.Fatal(err)
			}
			next.Close() // drops its copies of the flows
			for i, c := range conns {
				send(t, c, "x")
				if got := read(t, c); got != answers[i] {
					t.Errorf("flow %d: the answer is %q, want %q as before", i, got, answers[i])
				}
			}
			if len(next.records) != 0 || len(old.records) != 0 {
				t.Error("flows ended, want them kept")
			}
			if c := old.relay.Counters(); c.Flows != flows || c.Opened != flows {
				t.Errorf("%d of %d flows are active", c.Flows, c.Opened)
			}
		})
	}
}

// A flow that the other process cannot continue ends with a record that says why.
func TestRefusedFlowsEndWithAReason(t *testing.T) {
	other := netip.MustParseAddrPort("127.0.0.1:0")
	for _, row := range []struct {
		name   string
		change func(*forward.Forward)
		pass   func(next *live) Exchange
		want   verdict
	}{
		{"another header", simple, nil, otherHeader},
		{"transparent now", transparently, nil, otherSource},
		{"a source address now", func(f *forward.Forward) {
			f.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/30")}
		}, nil, otherSource},
		{"another mark", func(f *forward.Forward) { f.Mark = 7 }, nil, otherSource},
		{"no such listener", func(f *forward.Forward) { f.Listeners[0].Endpoint.Addr = other }, nil, noListener},
		{"no descriptor", nil, func(next *live) Exchange {
			return func(message []byte, fds []int) ([]byte, error) { return next.relay.Take(message, nil), nil }
		}, noDescriptor},
		{"another version", nil, func(next *live) Exchange {
			return func(message []byte, fds []int) ([]byte, error) {
				message[0]++
				answer, err := next.pass(message, fds)
				answer[0]++ // a version of its own
				return answer, err
			}
		}, unreadable},
		{"a message cut short", nil, func(next *live) Exchange {
			return func(message []byte, fds []int) ([]byte, error) { return next.pass(message[:len(message)*2/3+1], fds) }
		}, unreadable},
		{"an answer cut short", nil, func(next *live) Exchange {
			return func(message []byte, fds []int) ([]byte, error) {
				answer, err := next.pass(message, fds)
				return answer[:1], err
			}
		}, unreadable},
	} {
		t.Run(row.name, func(t *testing.T) {
			back := namingEcho(t)
			old := start(t, loopback(back.LocalAddr()))
			c := old.dial()
			send(t, c, a+"x")
			read(t, c)
			next := old.succeed(2, func(f *forward.Forward) {
				if row.change != nil {
					row.change(f)
				}
			})
			defer next.Close()
			exchange := next.pass
			if row.want == noListener { // the listener was not inherited
				clear(next.relay.inherited)
			}
			if row.pass != nil {
				exchange = row.pass(next)
			}
			h, err := old.relay.HandOver(t.Context(), exchange)
			if err != nil {
				t.Fatal(err)
			}
			if h.Refused[row.want.reason()] != 1 || h.Taken != 0 {
				t.Errorf("refused %v, taken %d", h.Refused, h.Taken)
			}
			h.Leave()
			if got := old.next(); got.Outcome != record.Drained || got.By != record.Gateway || got.Reason != row.want.reason() {
				t.Errorf("the record is %+v", got)
			}
		})
	}
}

// The claim on a client's address and port is handed over: another listener cannot use the pair
// until the flow ends.
func TestHandoverTransfersClaims(t *testing.T) {
	f := with(plain(server), transparently)
	old := newRig(t, 1, Config{}, f)
	old.from(lb, a+"x")
	r := newRig(t, 1, Config{}, with(plain(server), transparently))
	w := r.worker()
	w.phase = waiting
	s := old.worker().stateOf(old.flows()[0])
	take := func() verdict { return w.takeFlow(&takenFlow{state: s, fd: 0, socket: w.listeners[0]}) }
	s.bound, s.index = r.relay.bound[0].Addr, 0
	if v := take(); v != taken {
		t.Fatal(v.reason())
	}
	s.byPeer = true // makes it another flow
	if v := take(); v != sourceTaken {
		t.Errorf("two flows share a claim: %q", v.reason())
	}
	if got := r.flows(); len(got) != 1 || !got[0].claimed || got[0].source != clientA {
		t.Errorf("%d flows", len(got))
	}
}

// flows returns the flows of the first loop.
func (r *rig) flows() (all []*flow) {
	for _, f := range r.worker().table.flows {
		if f.list != nil {
			all = append(all, f)
		}
	}
	return all
}

// Flows that were handed over count against their client's limit, even above it, and expire after
// their remaining time.
func TestTakenFlowsCountAndExpire(t *testing.T) {
	old := newRig(t, 1, Config{}, plain(server))
	for i := range 3 {
		old.from(netip.AddrPortFrom(lb.Addr(), uint16(1000+i)), a+"x")
		old.pass(10 * time.Second)
	}
	limited := with(plain(server), func(f *forward.Forward) { f.MaxConnectionsPerClient = 2 })
	r := newRig(t, 1, Config{}, limited)
	w := r.worker()
	w.phase = waiting
	states := old.flows()
	if states[0].lastActive < states[2].lastActive {
		slices.Reverse(states) // the reverse order of their activity
	}
	for _, f := range states {
		s := old.worker().stateOf(f)
		fd, _ := r.Socket(unix.AF_INET)
		if v := w.takeFlow(&takenFlow{state: s, fd: fd, socket: w.listeners[0]}); v != taken {
			t.Fatal(v.reason())
		}
	}
	r.relay.Serve()
	r.settle()
	r.from(netip.AddrPortFrom(lb.Addr(), 999), a+"x")
	r.dropped(map[Drop]uint64{Limit: 1})
	for _, f := range r.flows() {
		if !f.counted {
			t.Errorf("the flow of %v does not count against the client's limit", f.peer)
		}
	}
	for i, after := range []time.Duration{30 * time.Second, 10 * time.Second, 10 * time.Second} {
		r.pass(after - time.Second)
		if len(r.records) != i {
			t.Fatalf("%d flows ended early", len(r.records)-i)
		}
		r.pass(1500 * time.Millisecond)
		r.clock -= int64(500 * time.Millisecond)
		if got := r.ended(i+1, record.OK, record.Timeout); got.Peer.Port() != uint16(1000+i) {
			t.Errorf("flow %d ended at position %d", got.Peer.Port(), i)
		}
	}
	r.from(netip.AddrPortFrom(lb.Addr(), 999), a+"x")
	if n := len(r.flows()); n != 1 {
		t.Errorf("%d flows, want 1", n)
	}
}

// During a handover no flow expires. A drain that starts meanwhile takes effect afterwards.
func TestSuspendedFlowsDoNotExpire(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a+"x")
	w := r.worker()
	w.suspend()
	w.unwatchFrom(0)
	r.listenerSocket(0).queue = append(r.listenerSocket(0).queue, datagram{peer: lb, data: a + "y"})
	r.back().queue = append(r.back().queue, datagram{data: "reply"})
	w.StopAccepting()
	for range 10 {
		r.clock += int64(time.Minute)
		r.turn(r.hosts[0])
	}
	if len(r.records) != 0 || len(r.back().sent) != 1 || len(r.listenerSocket(0).sent) != 0 {
		t.Errorf("%d flows ended, %d datagrams and %d replies went on", len(r.records), len(r.back().sent), len(r.listenerSocket(0).sent))
	}
	w.host.Call(w.resume)
	r.turn(r.hosts[0])
	if !w.draining || w.phase != serving {
		t.Errorf("draining %v, in phase %d", w.draining, w.phase)
	}
	r.pass(time.Second)
	r.ended(1, record.OK, record.Timeout)
}

// An upgrade may start while flows of the previous one are still being resumed. The rest of that
// resume must not take effect later.
func TestUpgradeDuringResume(t *testing.T) {
	r := one(t, plain(server))
	for i := range stepFlows + 10 {
		r.from(netip.AddrPortFrom(lb.Addr(), uint16(1000+i)), a+"x")
	}
	w, h := r.worker(), r.hosts[0]
	suspend := func() {
		w.suspend()
		for next := 0; next >= 0; next = w.unwatchFrom(next) {
		}
	}
	suspend()
	w.resume()
	if len(h.calls) != 1 {
		t.Fatalf("%d flows were resumed in one step, want several", stepFlows+10)
	}
	suspend()
	r.settle()
	if len(h.watched) != 0 || w.phase != suspended {
		t.Errorf("%d sockets are watched, in phase %d", len(h.watched), w.phase)
	}
	w.resume()
	r.settle()
	if len(h.watched) != stepFlows+11 || w.phase != serving {
		t.Errorf("%d sockets are watched, in phase %d", len(h.watched), w.phase)
	}
}

// During a handover, queue overflows of a listener are counted once, by one of the two processes.
func TestOverflowsAreCountedOnce(t *testing.T) {
	old, r := one(t, plain(server)), one(t, plain(server))
	r.worker().phase = waiting
	old.from(lb, a+"x")
	lose := func() {
		old.listenerSocket(0).drops += 3
		r.listenerSocket(0).drops = old.listenerSocket(0).drops // it is one socket
	}
	lose() // counted by the old process
	old.worker().suspend()
	r.relay.begin()
	r.settle()
	lose()
	r.relay.Serve()
	r.settle()
	r.from(lb, a+"x")
	r.pass(2 * time.Second)
	old.dropped(map[Drop]uint64{ReceiveQueueFull: 3})
	r.dropped(map[Drop]uint64{ReceiveQueueFull: 3})
}

// A stalled loop makes the handover fail, and the flows continue.
func TestStalledLoopFailsHandoverOnly(t *testing.T) {
	back := namingEcho(t)
	old := start(t, loopback(back.LocalAddr()))
	c := old.dial()
	send(t, c, a+"x")
	want := read(t, c)
	stall, stalled := make(chan struct{}), make(chan struct{})
	old.relay.workers[1].host.Call(func() { close(stalled); <-stall })
	<-stalled
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := old.relay.HandOver(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	close(stall)
	send(t, c, a+"x")
	if got := read(t, c); got != want {
		t.Errorf("the answer is %q, want %q as before", got, want)
	}
}

// Every reason has a text.
func TestVerdicts(t *testing.T) {
	for v := verdict(1); v < numVerdicts+3; v++ {
		if !strings.Contains(v.reason(), "the new process") {
			t.Errorf("verdict %d: %q", v, v.reason())
		}
	}
}
