package datagram

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// Transparent flows use the client's address as the policy says, with the same outcomes as TCP.
func TestTransparentSourceFollowsPolicy(t *testing.T) {
	policy := func(p transparent.Policy) func(*forward.Forward) {
		return func(f *forward.Forward) { f.Transparent, f.Source = true, p }
	}
	mappedTo4 := netip.AddrPortFrom(new(transparent.Policy).StandIn(client6.Addr()), client6.Port())
	rows := []struct {
		name     string
		policy   transparent.Policy
		backends []netip.AddrPort
		data     string
		source   netip.AddrPort // zero: the gateway's own
		to       netip.AddrPort
		drop     Drop
	}{
		{"IPv4", transparent.Policy{}, []netip.AddrPort{server}, a, clientA, server, 0},
		{"IPv6", transparent.Policy{}, []netip.AddrPort{server6}, v2(client6, dest6), client6, server6, 0},
		{"each to its family", transparent.Policy{}, []netip.AddrPort{server, server6}, v2(client6, dest6), client6, server6, 0},
		{"4-in-6 is IPv4", transparent.Policy{}, []netip.AddrPort{server}, v2(mapped(clientA), mapped(dest4)), clientA, server, 0},
		{"LOCAL is the gateway's own", transparent.Policy{}, []netip.AddrPort{server}, local, netip.AddrPort{}, server, 0},
		{"any port", transparent.Policy{SourcePort: transparent.Any}, []netip.AddrPort{server}, a, netip.AddrPortFrom(clientA.Addr(), 50004), server, 0},
		{"the other family", transparent.Policy{}, []netip.AddrPort{server}, v2(client6, dest6), netip.AddrPort{}, server, FamilyMismatch},
		{"the other family, plain", transparent.Policy{FamilyMismatch: transparent.Plain}, []netip.AddrPort{server}, v2(client6, dest6), netip.AddrPort{}, server, 0},
		{"the other family, mapped", transparent.Policy{FamilyMismatch: transparent.Map}, []netip.AddrPort{server}, v2(client6, dest6), mappedTo4, server, 0},
		{"loopback", transparent.Policy{}, []netip.AddrPort{server}, v2(netip.MustParseAddrPort("127.0.0.1:4711"), dest4), netip.AddrPort{}, server, SourceDenied},
		{"unspecified", transparent.Policy{}, []netip.AddrPort{server}, v2(netip.MustParseAddrPort("0.0.0.0:4711"), dest4), netip.AddrPort{}, server, SourceDenied},
		{"4-in-6 loopback", transparent.Policy{}, []netip.AddrPort{server}, v2(netip.MustParseAddrPort("[::ffff:127.0.0.1]:4711"), dest6), netip.AddrPort{}, server, SourceDenied},
		{"the backend's own", transparent.Policy{}, []netip.AddrPort{server}, v2(server, dest4), netip.AddrPort{}, server, SourceDenied},
		{"loopback, allowed", transparent.Policy{Allow: only(netip.MustParseAddrPort("127.0.0.1:1"))}, []netip.AddrPort{server},
			v2(netip.MustParseAddrPort("127.0.0.1:4711"), dest4), netip.MustParseAddrPort("127.0.0.1:4711"), server, 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := one(t, with(plain(row.backends...), policy(row.policy)))
			r.from(lb, row.data+"x")
			if row.drop != 0 {
				r.dropped(map[Drop]uint64{row.drop: 1})
				r.clean()
				return
			}
			s := r.back()
			if s.bound != row.source || s.to != row.to {
				t.Errorf("from %v to %v, want from %v to %v", s.bound, s.to, row.source, row.to)
			}
			option := [2]int{unix.IPPROTO_IP, unix.IP_TRANSPARENT}
			if s.family == unix.AF_INET6 {
				option = [2]int{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT}
			}
			if got, want := s.options[option] == 1, row.source.IsValid(); got != want {
				t.Errorf("the transparent option is %v, want %v", got, want)
			}
			r.pass(time.Minute + time.Second)
			c := r.last(1)
			if c.Transparent != row.source.IsValid() {
				t.Errorf("recorded transparent %v", c.Transparent)
			}
			if c.Transparent && c.Reason == "" {
				t.Error("a transparent flow without a reply has no reason in its record")
			}
			if differs := row.source.IsValid() && row.source != c.Client; c.Source.IsValid() != differs || differs && c.Source != row.source {
				t.Errorf("recorded source %v of client %v, want %v", c.Source, c.Client, row.source)
			}
			r.clean()
		})
	}
}

// An untrusted peer that is passed is itself the client that the backend sees.
func TestTransparentUntrustedPeerIsTheClient(t *testing.T) {
	r := one(t, with(plain(server), func(f *forward.Forward) { transparently(f); f.PassUntrusted = true }))
	r.from(unknown, "hello")
	if s := r.back(); s.bound != unknown {
		t.Errorf("from %v, want %v", s.bound, unknown)
	}
}

// If a client's address has no free port, the flow that was idle longest is evicted. Without one
// the outcome is a limit, but not if only the client's own port is taken.
func TestNoSourcePortIsALimit(t *testing.T) {
	for _, row := range []struct {
		mode transparent.SourcePort
		want Drop
	}{{transparent.Any, Limit}, {transparent.Prefer, Limit}, {transparent.Keep, SourcePortBusy}} {
		r := one(t, with(plain(server), func(f *forward.Forward) {
			transparently(f)
			f.Source.SourcePort = row.mode
		}))
		r.bindError = func(netip.AddrPort) syscall.Errno { return unix.EADDRINUSE }
		r.from(lb, a+"x")
		r.dropped(map[Drop]uint64{row.want: 1})
		r.clean()
	}
}

// If the client's port is taken, prefer uses another one and counts it, and keep refuses.
func TestTransparentPortTaken(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EADDRINUSE, unix.EACCES} {
		taken := func(at netip.AddrPort) syscall.Errno {
			if at == clientA {
				return errno
			}
			return 0
		}
		r := one(t, with(plain(server), transparently))
		r.bindError = taken
		r.from(lb, a+"x")
		if s := r.back(); s.bound.Addr() != clientA.Addr() || s.bound.Port() == clientA.Port() || r.relay.Counters().PortFallbacks != 1 {
			t.Errorf("from %v, %d fallbacks", s.bound, r.relay.Counters().PortFallbacks)
		}
		r = one(t, with(plain(server), func(f *forward.Forward) {
			transparently(f)
			f.Source.SourcePort = transparent.Keep
		}))
		r.bindError = taken
		r.from(lb, a+"x")
		want := SourcePortBusy
		if errno == unix.EACCES {
			want = Permission
		}
		r.dropped(map[Drop]uint64{want: 1})
		r.clean()
	}
}

// The kernel would allow two sockets with the same address pair and mix up their replies.
func TestTransparentFlowsHaveDistinctAddressPairs(t *testing.T) {
	second := func(f *forward.Forward) {
		l := f.Listeners[0]
		l.Name, l.Endpoint.Addr = "udp://second", netip.AddrPortFrom(listener4.Addr(), 54)
		f.Listeners = append(f.Listeners, l)
	}
	for _, port := range []transparent.SourcePort{transparent.Prefer, transparent.Keep} {
		r := one(t, with(plain(server), func(f *forward.Forward) {
			transparently(f)
			f.Source.SourcePort = port
			second(f)
		}))
		r.from(lb, a+"one")
		r.listenerSocket(1).queue = append(r.listenerSocket(1).queue, datagram{peer: lb, data: a + "two"})
		r.settle()
		if port == transparent.Keep {
			r.dropped(map[Drop]uint64{SourcePortBusy: 1})
		} else if backs := r.backs(); len(backs) != 2 || backs[1].bound.Port() == clientA.Port() || backs[1].bound.Addr() != clientA.Addr() {
			t.Errorf("%d flows", len(backs))
		}
		r.pass(time.Minute + time.Second)
		r.clean()
		// Another backend makes another address pair.
	}
	r := one(t, with(plain(), func(f *forward.Forward) {
		transparently(f)
		f.Listeners[0].Backends = []forward.Backend{{FromHeader: true}}
		f.AllowDestination = prefixes{netip.MustParsePrefix("0.0.0.0/0")}
	}))
	r.from(lb, v2(clientA, server)+"one", v2(clientA, serverB)+"two")
	if backs := r.backs(); len(backs) != 2 || backs[0].bound != clientA || backs[1].bound != clientA {
		t.Errorf("%d flows to two backends", len(backs))
	}
}

// A balancer that forgot a client sends from another port. The client keeps its port, and the
// replies go to the balancer's latest port.
func TestTransparentClientKeepsPortAcrossPeerPorts(t *testing.T) {
	for loops := 1; loops <= 2; loops++ {
		r := newRig(t, loops, Config{}, with(plain(server), transparently))
		r.from(lb, a+"one")
		old := r.back()
		old.queue = append(old.queue, datagram{data: "late"})
		h := r.hosts[loops-1]
		ls := r.sockets[h.guest.listeners[0].fd-3]
		ls.queue = append(ls.queue, datagram{peer: lbOther, data: a + "two"})
		r.settle()
		c := r.ended(1, record.OK, record.Peer)
		if c.Peer != lb || c.DatagramsOut != 1 {
			t.Errorf("%d loops: the flow of %v ended with %d replies", loops, c.Peer, c.DatagramsOut)
		}
		r.went(to(lb, "late"))
		s := r.back()
		if s == old || s.bound != clientA {
			t.Fatalf("%d loops: from %v, want %v", loops, s.bound, clientA)
		}
		s.took(t, "two")
		if len(r.relay.claims.held) != 1 {
			t.Errorf("%d loops: %d claims are held, want the new flow's", loops, len(r.relay.claims.held))
		}
		ls.sent = nil
		r.answer(s, "yes")
		if len(ls.sent) != 1 || ls.sent[0].peer != lbOther {
			t.Errorf("%d loops: the replies are %v", loops, ls.sent)
		}
		r.pass(time.Minute + time.Second)
		if r.relay.Counters().PortFallbacks != 0 {
			t.Errorf("%d loops: another port was taken", loops)
		}
		r.clean()
	}
}

// A flow that is replaced does not fail over, even if its backend refused the last datagram.
func TestTransparentReplacedFlowDoesNotFailOver(t *testing.T) {
	r := one(t, with(plain(server, serverB), transparently))
	r.from(lb, a+"one")
	old := r.back()
	old.errors = []syscall.Errno{unix.ECONNREFUSED}
	r.connectError = func(to, _ netip.AddrPort) syscall.Errno {
		if to == serverB {
			return unix.ENETUNREACH
		}
		return 0
	}
	ls := r.listenerSocket(0)
	ls.queue = append(ls.queue, datagram{peer: lbOther, data: a + "two"})
	w := r.worker()
	w.Event(r.hosts[0].watched[ls.fd], unix.EPOLLIN) // before the event of the error
	r.settle()
	if s := r.back(); s == old || s.bound != clientA || s.to != server {
		t.Errorf("from %v to %v", s.bound, s.to)
	}
	r.ended(1, record.OK, record.Peer)
	if len(r.relay.claims.held) != 1 {
		t.Errorf("%d claims are held, want 1", len(r.relay.claims.held))
	}
}

func TestMarkIsSetOnBackendSockets(t *testing.T) {
	r := one(t, with(plain(server), func(f *forward.Forward) { f.Mark = 0x10 }))
	r.from(lb, a+"x")
	if got := r.back().options[[2]int{unix.SOL_SOCKET, unix.SO_MARK}]; got != 0x10 {
		t.Errorf("mark %#x, want 0x10", got)
	}
	r = one(t, with(plain(server), func(f *forward.Forward) { f.Mark = 0x10 }))
	r.optionError = func(_, name int) syscall.Errno {
		if name == unix.SO_MARK {
			return unix.EPERM
		}
		return 0
	}
	r.from(lb, a+"x")
	r.dropped(map[Drop]uint64{Permission: 1})
	r.clean()
}
