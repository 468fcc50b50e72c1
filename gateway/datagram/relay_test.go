package datagram

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// A flow from its first datagram to its end: what both sides receive, and its record.
func TestFlow(t *testing.T) {
	forward := plain(server)
	r := one(t, forward)
	authority := proxyproto.TLV{Type: proxyproto.TypeAuthority, Value: []byte("dns.example")}
	r.from(lb, v2(clientA, dest4, authority)+"one", a+"two", a)
	s := r.back()
	if s.to != server || s.bound.IsValid() {
		t.Errorf("the backend's socket is bound to %v and connected to %v", s.bound, s.to)
	}
	s.took(t, "one", "two", "")
	r.answer(s, "yes", "", "no")
	r.went(to(lb, "yes"), to(lb, ""), to(lb, "no"))
	r.pass(59 * time.Second)
	if len(r.records) != 0 {
		t.Fatal("the flow ended early")
	}
	r.pass(2 * time.Second)
	c := r.ended(1, record.OK, record.Timeout)
	want := record.Connection{
		ID: c.ID, Datagram: true, Forward: "udp://first", Peer: lb, Client: clientA, Destination: dest4, Backend: server, Version: 2, Command: record.CommandProxy,
		Outcome: record.OK, Phase: record.Relay, By: record.Timeout,
		BytesIn: 6, BytesOut: 5, DatagramsIn: 3, DatagramsOut: 3, Duration: c.Duration, Details: c.Details,
	}
	if fmt.Sprint(c) != fmt.Sprint(want) {
		t.Errorf("recorded\n%+v, want\n%+v", c, want)
	}
	if c.Duration < time.Minute || c.Details == nil || c.Details.Authority != "dns.example" || c.ID == 0 {
		t.Errorf("recorded %v and %+v", c.Duration, c.Details)
	}
	r.dropped(nil)
	counted := r.relay.Counters()
	if counted.Opened != 1 || counted.DatagramsIn != 3 || counted.DatagramsOut != 3 || counted.BytesIn != 6 || counted.BytesOut != 5 {
		t.Errorf("counted %+v", counted)
	}
	tally := r.hosts[0].Tally(forward)
	if tally.Accepted != 1 || tally.Bytes != [2]uint64{6, 5} || tally.Closed[record.OK][record.Relay] != 1 || tally.Duration.Seconds < 60 {
		t.Errorf("tallied %+v", tally)
	}
	r.clean()
}

// hits is a set that records the addresses it admits.
type hits struct {
	prefixes
	admitted []string
}

func (h *hits) Admit(a netip.Addr, loop int) bool {
	h.admitted = append(h.admitted, fmt.Sprint(a, " on ", loop))
	return h.Contains(a)
}

// A trust rule counts each flow that it admits, not each datagram.
func TestTrustRuleHitsCountFlows(t *testing.T) {
	counting := &hits{prefixes: only(lb)}
	r := newRig(t, 2, Config{}, with(plain(server), func(f *forward.Forward) { f.Trust, f.PassUntrusted = counting, true }))
	r.from(lb, a+"one", a+"two", b+"three")
	r.from(unknown, "four")
	ls := r.sockets[r.hosts[1].guest.listeners[0].fd-3]
	ls.queue = append(ls.queue, datagram{peer: lbOther, data: a + "five"})
	r.settle()
	want := "192.0.2.1 on 0, 192.0.2.1 on 0, 192.0.2.1 on 1"
	if got := strings.Join(counting.admitted, ", "); got != want {
		t.Errorf("admitted %q, want %q", got, want)
	}
}

// Which datagrams belong to one flow and which do not. Each row is a fault that was reported in
// another gateway.
func TestFlowIdentity(t *testing.T) {
	type sent struct {
		peer netip.AddrPort
		data string
	}
	rows := []struct {
		name  string
		a, b  sent
		mode  func(*forward.Forward)
		flows int
	}{
		{"two clients over one of the balancer's sockets", sent{lb, a}, sent{lb, b}, nil, 2},
		{"one client over two", sent{lb, a}, sent{lbOther, a}, nil, 2},
		{"two destinations of one client", sent{lb, a}, sent{lb, v2(clientA, dest4b())}, nil, 2},
		{"LOCAL from two senders", sent{lb, local}, sent{lbOther, local}, nil, 2},
		{"LOCAL, and a client that is the balancer", sent{lb, local}, sent{lb, v2(lb, dest4)}, nil, 2},
		{"the same client again", sent{lb, a}, sent{lb, a}, nil, 1},
		{"4-in-6 and IPv4 of one client", sent{lb, a}, sent{lb, v2(mapped(clientA), mapped(dest4))}, nil, 1},
		{"two peers that put the header first", sent{lb, a}, sent{lbOther, a}, first, 2},
		{"Simple Proxy Protocol, two clients", sent{lb, spp(clientA, dest4)}, sent{lb, spp(clientB, dest4)}, simple, 2},
		{"Simple Proxy Protocol, two proxies", sent{lb, spp(clientA, dest4)}, sent{lb, spp(clientA, dest4b())}, simple, 2},
		{"Simple Proxy Protocol, again", sent{lb, spp(clientA, dest4)}, sent{lb, spp(clientA, dest4)}, simple, 1},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := plain(server)
			if row.mode != nil {
				row.mode(f)
			}
			r := one(t, f)
			r.from(row.a.peer, row.a.data+"from a")
			r.from(row.b.peer, row.b.data+"from b")
			backs := r.backs()
			if len(backs) != row.flows {
				t.Fatalf("%d flows, want %d", len(backs), row.flows)
			}
			if row.flows == 1 {
				backs[0].took(t, "from a", "from b")
				return
			}
			backs[0].took(t, "from a")
			backs[1].took(t, "from b")
			prefix := func(s string) string {
				if row.a.data[0] == 0x56 {
					return s[:SPPLength]
				}
				return ""
			}
			// The later flow's reply first: the last sender must not matter.
			r.answer(backs[1], "to b")
			r.answer(backs[0], "to a")
			r.went(to(row.b.peer, prefix(row.b.data)+"to b"), to(row.a.peer, prefix(row.a.data)+"to a"))
			r.dropped(nil)
		})
	}
}

func mapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func dest4b() netip.AddrPort { return netip.AddrPortFrom(dest4.Addr(), 54) }

// A peer that changes its port starts another flow and gets that flow's replies there.
func TestPeerChangesPort(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a+"one")
	r.from(lbOther, a+"two")
	backs := r.backs()
	r.answer(backs[1], "second")
	r.went(to(lbOther, "second"))
	r.answer(backs[0], "late")
	r.went(to(lb, "late"))
}

func TestFlowExpiresWhenBothSidesAreIdle(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a+"one", b+"one")
	backs := r.backs()
	for range 5 {
		r.pass(50 * time.Second)
		r.answer(backs[0], "push")
		r.from(lb, b+"again")
	}
	if len(r.records) != 0 {
		t.Fatalf("%d flows ended although they were active", len(r.records))
	}
	r.pass(30 * time.Second)
	r.from(lb, b+"again")
	r.pass(31 * time.Second)
	if c := r.ended(1, record.OK, record.Timeout); c.Client != clientA {
		t.Errorf("the flow of %v ended first, want %v's", c.Client, clientA)
	}
	r.pass(30 * time.Second)
	r.last(2)
	r.clean()
}

// Thousands of flows that expire together end in portions.
func TestExpiryIsBoundedPerTurn(t *testing.T) {
	r := one(t, plain(server))
	const n = 2*expireBudget + 10
	for i := range n {
		r.from(lb, at(i))
	}
	r.clock += int64(time.Hour)
	h := r.hosts[0]
	for i := 1; len(r.records) < n; i++ {
		h.alarm = 0
		h.guest.Alarm()
		if want := min(n, i*expireBudget); len(r.records) != want {
			t.Fatalf("%d flows have ended, want %d", len(r.records), want)
		}
		if len(r.records) < n && h.alarm != r.clock+1 {
			t.Fatalf("the alarm is due in %d ns, want 0", h.alarm-r.clock)
		}
	}
	r.clean()
}

// Replies leave from the address that the flow's last datagram was sent to.
func TestRepliesComeFromTheDestination(t *testing.T) {
	rows := []struct {
		name   string
		at     string
		dual   bool
		peer   netip.AddrPort
		locals [2]string
	}{
		{"IPv4", "0.0.0.0:53", false, lb, [2]string{"192.0.2.80", "192.0.2.81"}},
		{"IPv6", "[::]:53", false, lb6, [2]string{"2001:db8:2::80", "2001:db8:2::81"}},
		{"IPv4 on both", "[::]:53", true, lb, [2]string{"192.0.2.80", "192.0.2.81"}},
		{"one address", "192.0.2.80:53", false, lb, [2]string{}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := plain(server)
			f.Listeners[0].Endpoint.Addr, f.Listeners[0].DualStack = netip.MustParseAddrPort(row.at), row.dual
			r := one(t, f)
			for _, text := range row.locals {
				at, _ := netip.ParseAddr(text)
				ls := r.listenerSocket(0)
				ls.queue = append(ls.queue, datagram{peer: row.peer, local: at, data: a + "q"})
				r.settle()
				r.answer(r.back(), "r")
				if len(ls.sent) != 1 || ls.sent[0].local != at || ls.sent[0].peer != row.peer {
					t.Errorf("the reply went %+v, want from %v to %v", ls.sent, at, row.peer)
				}
				ls.sent = nil
			}
		})
	}
}

// Each listener of a port range leads to its own backend port and has its own flows.
func TestPortRange(t *testing.T) {
	f := plain(server)
	second := f.Listeners[0]
	second.Name, second.Endpoint.Addr = "udp://second", netip.AddrPortFrom(listener4.Addr(), 54)
	second.Backends = []forward.Backend{{Endpoint: forward.Endpoint{Addr: serverB}}}
	f.Listeners = append(f.Listeners, second)
	r := one(t, f)
	r.from(lb, a+"one")
	r.listenerSocket(1).queue = append(r.listenerSocket(1).queue, datagram{peer: lb, data: a + "two"})
	r.settle()
	backs := r.backs()
	if len(backs) != 2 || backs[0].to != server || backs[1].to != serverB {
		t.Fatalf("%d flows, want 2", len(backs))
	}
	for i, s := range backs {
		s.queue = append(s.queue, datagram{data: fmt.Sprint("reply ", i)})
	}
	r.settle()
	r.listenerSocket(0).took(t, "reply 0")
	r.listenerSocket(1).took(t, "reply 1")
	if bound := r.relay.Bound(); len(bound) != 2 || bound[1].Addr != second.Endpoint.Addr {
		t.Errorf("bound to %v", bound)
	}
}

// Datagrams of one flow that come together are sent together: as a GSO batch where
// they are of one size, and by one call where they are not.
func TestTogether(t *testing.T) {
	r := one(t, plain(server))
	var in, out []string
	for i := range 40 {
		in, out = append(in, a+fmt.Sprintf("%04d", i)), append(out, fmt.Sprintf("%04d", i))
	}
	r.from(lb, in...)
	s := r.back()
	if s.gsoBatches != 1 {
		t.Errorf("%d GSO batches, want 1", s.gsoBatches)
	}
	s.took(t, out...)
	sizes := []string{"", "a", "", "ccc", "ccc", "cc", "ccc", "dddd", "dddd"}
	in = nil
	for _, text := range sizes {
		in = append(in, a+text)
	}
	before := r.calls["sendmmsg"]
	r.from(lb, in...)
	if n := r.calls["sendmmsg"] - before; n != 1 || s.gsoBatches != 3 {
		t.Errorf("%d calls and %d GSO batches, want 1 and 3", n, s.gsoBatches)
	}
	s.took(t, sizes...)

	// Replies of several flows to one peer likewise.
	r.from(lb, b+"hello")
	other := r.backs()[1]
	for i := range 3 {
		s.queue = append(s.queue, datagram{data: fmt.Sprint("a", i)})
		other.queue = append(other.queue, datagram{data: fmt.Sprint("b", i)})
	}
	r.settle()
	if n := len(r.listenerSocket(0).sent); n != 6 || r.listenerSocket(0).gsoBatches == 0 {
		t.Errorf("%d replies in %d GSO batches", n, r.listenerSocket(0).gsoBatches)
	}
}

// One turn of the loop forwards more replies than an I/O batch has room for.
func TestMoreRepliesThanABatch(t *testing.T) {
	r := one(t, plain(server))
	const n = 200
	for i := range n {
		r.from(lb, at(i))
	}
	backs := r.backs()
	for i, s := range backs {
		s.queue = append(s.queue, datagram{data: fmt.Sprint("reply ", i)})
	}
	r.turn(r.hosts[0])
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint("reply ", i))
	}
	r.listenerSocket(0).took(t, want...)
}

// GSO batches that the kernel put together are taken apart where each datagram has a
// header, and passed on whole where there is none to put before.
func TestReceivedTrains(t *testing.T) {
	r := one(t, plain(server))
	ls := r.listenerSocket(0)
	ls.queue = append(ls.queue, datagram{peer: lb, data: a + "1" + b + "2" + a + "3" + a, segment: len(a) + 1})
	r.settle()
	backs := r.backs()
	backs[0].took(t, "1", "3", "")
	backs[1].took(t, "2")

	// Many replies at once make the flow a bulk flow, for which GRO is enabled.
	for i := range 100 {
		backs[0].queue = append(backs[0].queue, datagram{data: fmt.Sprint(i % 10)})
	}
	r.settle()
	if backs[0].options[[2]int{unix.SOL_UDP, unix.UDP_GRO}] != 1 || len(ls.sent) != 100 {
		t.Fatalf("no GSO batches are asked for, or %d of 100 replies went", len(ls.sent))
	}
	ls.sent, ls.gsoBatches = nil, 0
	backs[0].queue = append(backs[0].queue, datagram{data: "aabbccd", segment: 2})
	r.settle()
	r.went(to(lb, "aa"), to(lb, "bb"), to(lb, "cc"), to(lb, "d"))
	if ls.gsoBatches != 1 {
		t.Errorf("%d GSO batches, want 1", ls.gsoBatches)
	}
}

// Before replies of the Simple Proxy Protocol stands the header of their flow,
// also when the flow has ended by the time they are sent, and when they came as
// a GSO batch.
func TestSimpleReplies(t *testing.T) {
	r := newRig(t, 1, Config{MaxFlows: 1}, with(plain(server), simple))
	headA, headB := spp(clientA, dest4), spp(client6, dest6)
	r.from(lb, headA+"one")
	s := r.back()
	s.queue = append(s.queue, datagram{data: "yes"})
	w := r.worker()
	w.Event(r.hosts[0].watched[s.fd], unix.EPOLLIN) // read, and not yet sent
	ls := r.listenerSocket(0)
	ls.queue = append(ls.queue, datagram{peer: lbOther, data: headB + "two"})
	w.receive(w.listeners[0]) // evicts the first flow
	w.Rest()
	r.went(to(lb, headA+"yes"))
	r.last(1)
	s = r.back()
	s.queue = append(s.queue, datagram{data: "a"}, datagram{data: "b"})
	r.settle()
	r.went(to(lbOther, headB+"a"), to(lbOther, headB+"b"))
	w.table.find(w.onlyKey()).bulk = true
	s.queue = append(s.queue, datagram{data: "ccdde", segment: 2})
	r.settle()
	r.went(to(lbOther, headB+"cc"), to(lbOther, headB+"dd"), to(lbOther, headB+"e"))
}

func (w *worker) onlyKey() key {
	for k := range w.table.byKey {
		return k
	}
	return key{}
}
