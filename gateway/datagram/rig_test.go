package datagram

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// The addresses of the scripted tests: the balancer is 192.0.2.1, the gateway
// 192.0.2.80, the clients that its headers name 203.0.113.x, the backends
// 198.51.100.x.
var (
	lb        = netip.MustParseAddrPort("192.0.2.1:40000")
	lbOther   = netip.MustParseAddrPort("192.0.2.1:40001")
	lb6       = netip.MustParseAddrPort("[2001:db8:2::1]:40000")
	unknown   = netip.MustParseAddrPort("192.0.2.66:40000")
	clientA   = netip.MustParseAddrPort("203.0.113.9:4711")
	clientB   = netip.MustParseAddrPort("203.0.113.10:4711")
	client6   = netip.MustParseAddrPort("[2001:db8::9]:4711")
	dest4     = netip.MustParseAddrPort("192.0.2.80:53")
	dest6     = netip.MustParseAddrPort("[2001:db8::80]:53")
	server    = netip.MustParseAddrPort("198.51.100.1:53")
	serverB   = netip.MustParseAddrPort("198.51.100.2:53")
	server6   = netip.MustParseAddrPort("[2001:db8:1::1]:53")
	listener4 = netip.MustParseAddrPort("192.0.2.80:53")
)

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

func only(all ...netip.AddrPort) (s prefixes) {
	for _, a := range all {
		s = append(s, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	return s
}

// plain is a forward to some backends that trusts the balancer.
func plain(backends ...netip.AddrPort) *forward.Forward {
	f := &forward.Forward{
		Listeners:   []forward.Listener{{Name: "udp://first", Endpoint: forward.Endpoint{Addr: listener4}}},
		Trust:       only(lb, lb6),
		Headers:     1,
		Datagrams:   true,
		FlowTimeout: time.Minute,
	}
	for _, b := range backends {
		f.Listeners[0].Backends = append(f.Listeners[0].Backends, forward.Backend{Endpoint: forward.Endpoint{Addr: b}})
	}
	return f
}

// with applies a change to a forward and returns it.
func with(f *forward.Forward, change func(*forward.Forward)) *forward.Forward {
	change(f)
	return f
}

func first(f *forward.Forward)  { f.DatagramHeader = forward.FirstDatagram }
func simple(f *forward.Forward) { f.DatagramHeader = forward.SimpleProxy }

func transparently(f *forward.Forward) {
	f.Transparent, f.Source = true, transparent.Policy{}
}

// rig is a relay on a scripted kernel and scripted loops that the test turns.
type rig struct {
	testing.TB
	*script
	relay   *Relay
	hosts   []*scriptedHost
	records []record.Connection
	notices []engine.Notice
	clock   int64

	watchError func(fd int) syscall.Errno // of Host.Watch; nil: none
}

// scriptedHost is an event loop of a rig.
type scriptedHost struct {
	rig     *rig
	index   int
	loops   int
	guest   *worker
	watched map[int]uint64
	alarm   int64
	calls   []func()
	atOnce  bool // makes calls at once
	held    int
	ids     uint64
	tallies map[*forward.Forward]*record.Tally
}

func (h *scriptedHost) Index() int               { return h.index }
func (h *scriptedHost) Loops() int               { return h.loops }
func (h *scriptedHost) Now() int64               { return h.rig.clock }
func (h *scriptedHost) Alarm(at int64)           { h.alarm = at }
func (h *scriptedHost) Hold(*forward.Forward)    { h.held++ }
func (h *scriptedHost) Release(*forward.Forward) { h.held-- }
func (h *scriptedHost) NextID() uint64           { h.ids++; return h.ids*uint64(h.loops) + uint64(h.index) }

func (h *scriptedHost) Tally(f *forward.Forward) *record.Tally {
	if h.tallies == nil {
		h.tallies = map[*forward.Forward]*record.Tally{}
	}
	if h.tallies[f] == nil {
		h.tallies[f] = new(record.Tally)
	}
	return h.tallies[f]
}

func (h *scriptedHost) Watch(fd int, events uint32, key uint64) syscall.Errno {
	if key == 0 || key > engine.MaxKey || events != unix.EPOLLIN {
		h.rig.Errorf("watched under %x for %x", key, events)
	}
	if h.rig.watchError != nil {
		if errno := h.rig.watchError(fd); errno != 0 {
			return errno
		}
	}
	h.watched[fd] = key
	return 0
}

func (h *scriptedHost) Call(f func()) {
	if h.atOnce {
		f()
		return
	}
	h.calls = append(h.calls, f)
}

func (h *scriptedHost) Unwatch(fd int) { delete(h.watched, fd) }

// newRig makes a rig on the scripted kernel of c, or on a new one.
func newRig(t testing.TB, loops int, c Config, forwards ...*forward.Forward) *rig {
	t.Helper()
	k, _ := c.Kernel.(*script)
	r := &rig{TB: t, script: k, clock: int64(time.Hour)}
	switch faulty, ok := c.Kernel.(*faulty); {
	case ok:
		r.script, r.watchError = faulty.script, faulty.watch
	case k == nil:
		r.script = newScript(t)
		fallthrough
	default:
		c.Kernel = r.script
	}
	c.Report = func(rec *record.Connection) { r.records = append(r.records, *rec) }
	c.Notice = func(n engine.Notice) { r.notices = append(r.notices, n) }
	r.relay = New(c)
	var routes []*engine.Route
	for _, f := range forwards {
		backends := engine.NewBackends(f, c.Notice)
		for i := range f.Listeners {
			routes = append(routes, &engine.Route{Forward: f, Listener: &f.Listeners[i], Backends: backends})
		}
	}
	for i := range loops {
		h := &scriptedHost{rig: r, index: i, loops: loops, watched: map[int]uint64{}}
		guest, err := r.relay.Guest(h, routes)
		if err != nil {
			t.Fatal(err)
		}
		h.guest = guest.(*worker)
		r.hosts = append(r.hosts, h)
		guest.Start()
	}
	return r
}

// one makes a rig with one loop and one forward.
func one(t testing.TB, f *forward.Forward) *rig {
	t.Helper()
	return newRig(t, 1, Config{}, f)
}

func (r *rig) worker() *worker { return r.hosts[0].guest }

// listenerSocket is the socket of a listener on the first loop.
func (r *rig) listenerSocket(i int) *socket { return r.sockets[r.worker().listeners[i].fd-3] }

// turn serves once what is ready on a loop, then lets it rest.
func (r *rig) turn(h *scriptedHost) {
	for fd := 3; fd < len(r.sockets)+3; fd++ {
		s := r.sockets[fd-3]
		if key, ok := h.watched[fd]; ok && s.isOpen && len(s.queue)+len(s.errors) > 0 {
			h.guest.Event(key, unix.EPOLLIN)
		}
	}
	if h.alarm != 0 && r.clock >= h.alarm {
		h.alarm = 0
		h.guest.Alarm()
	}
	calls := h.calls
	h.calls = nil
	for _, f := range calls {
		f()
	}
	h.guest.Rest()
}

// settle turns the loops until nothing is ready.
func (r *rig) settle() {
	r.Helper()
	for range 1000 {
		busy := false
		for _, h := range r.hosts {
			r.turn(h)
		}
		for _, h := range r.hosts {
			busy = busy || len(h.calls) > 0 || h.alarm != 0 && r.clock >= h.alarm
			for fd := range h.watched {
				s := r.sockets[fd-3]
				busy = busy || s.isOpen && len(s.queue)+len(s.errors) > 0
			}
		}
		if !busy {
			return
		}
	}
	r.Fatal("the loops do not become idle")
}

// pass advances the clock in steps of at most a quarter of a second.
func (r *rig) pass(d time.Duration) {
	for ; d > 0; d -= 250 * time.Millisecond {
		r.clock += int64(min(d, 250*time.Millisecond))
		r.settle()
	}
}

// from delivers datagrams of a peer to the first listener.
func (r *rig) from(peer netip.AddrPort, datagrams ...string) {
	r.Helper()
	s := r.listenerSocket(0)
	for _, d := range datagrams {
		s.queue = append(s.queue, datagram{peer: peer, data: d})
	}
	r.settle()
}

// backs returns the open sockets to backends, oldest first.
func (r *rig) backs() (all []*socket) {
	listeners := 0
	for _, h := range r.hosts {
		listeners += len(h.guest.listeners)
	}
	for _, s := range r.sockets[listeners:] {
		if s.isOpen {
			all = append(all, s)
		}
	}
	return all
}

// back returns the only socket to a backend.
func (r *rig) back() *socket {
	r.Helper()
	all := r.backs()
	if len(all) != 1 {
		r.Fatalf("%d flows are open, want 1", len(all))
	}
	return all[0]
}

// answer delivers replies to a socket.
func (r *rig) answer(s *socket, replies ...string) {
	r.Helper()
	for _, d := range replies {
		s.queue = append(s.queue, datagram{data: d})
	}
	r.settle()
}

// texts are what was sent, where to before it where that differs from at.
func texts(sent []datagram) []string {
	all := []string{}
	for _, d := range sent {
		all = append(all, d.data)
	}
	return all
}

// took checks and forgets what arrived at a remote end.
func (s *socket) took(t testing.TB, want ...string) {
	t.Helper()
	got := texts(s.sent)
	if len(got) != len(want) || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("received %.300q, want %.300q", got, want)
	}
	s.sent = nil
}

// went checks and forgets the replies of the first listener and their destinations.
func (r *rig) went(want ...string) {
	r.Helper()
	var got []string
	for _, d := range r.listenerSocket(0).sent {
		got = append(got, fmt.Sprintf("%v %s", d.peer, d.data))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		r.Errorf("replies %.300q, want %.300q", got, want)
	}
	r.listenerSocket(0).sent = nil
}

// to formats a reply as went does.
func to(peer netip.AddrPort, text string) string { return peer.String() + " " + text }

// dropped checks the number of dropped datagrams for each reason.
func (r *rig) dropped(want map[Drop]uint64) {
	r.Helper()
	got := r.relay.Counters().Dropped
	for d := range got {
		if got[d] != want[Drop(d)] {
			r.Errorf("%v dropped %d, want %d", Drop(d), got[d], want[Drop(d)])
		}
	}
}

// last returns the last record. There must be n records.
func (r *rig) last(n int) record.Connection {
	r.Helper()
	if len(r.records) != n {
		r.Fatalf("%d flows were reported, want %d", len(r.records), n)
	}
	return r.records[n-1]
}

// ended checks how the last flow, the n-th, ended.
func (r *rig) ended(n int, outcome record.Outcome, by record.Party) record.Connection {
	r.Helper()
	c := r.last(n)
	if c.Outcome != outcome || c.By != by || c.Phase != record.Relay || !c.Datagram {
		r.Errorf("ended %v in %v by %v (%s), want %v in relay by %v", c.Outcome, c.Phase, c.By, c.Reason, outcome, by)
	}
	return c
}

// clean checks that no flow left any state.
func (r *rig) clean() {
	r.Helper()
	if n := len(r.backs()); n != 0 {
		r.Errorf("%d sockets are open", n)
	}
	if n := r.relay.Counters().Flows; n != 0 {
		r.Errorf("%d flows are counted", n)
	}
	if n := len(r.relay.claims.held); n != 0 {
		r.Errorf("%d claims are held", n)
	}
	for _, h := range r.hosts {
		w := h.guest
		if h.held != 0 || len(w.table.byKey) != 0 || len(w.table.free) != len(w.table.flows) || w.toBackend.used != 0 || len(w.toBackend.runs) != 0 || len(w.pendingReads.pending) != 0 || len(w.failing) != 0 || w.replies.used != 0 {
			r.Errorf("loop %d holds %d, knows %d flows, %d of %d free", h.index, h.held, len(w.table.byKey), len(w.table.free), len(w.table.flows))
		}
		for _, l := range w.lists {
			if l.first != nil || l.last != nil || l.flows.total() != 0 {
				r.Errorf("a list holds flows")
			}
		}
	}
}

// v2 returns a version 2 header, LOCAL if the source is invalid.
func v2(source, destination netip.AddrPort, tlvs ...proxyproto.TLV) string {
	m := proxyproto.Message{Source: source, Destination: destination, TLVs: tlvs, Datagram: true}
	if source.IsValid() {
		m.Command = proxyproto.CommandProxy
	}
	b, err := proxyproto.AppendV2(nil, &m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// local is a LOCAL header.
var local = v2(netip.AddrPort{}, netip.AddrPort{})

// a and b are headers of two clients.
var (
	a = v2(clientA, dest4)
	b = v2(clientB, dest4)
)

func spp(client, proxy netip.AddrPort) string { return string(AppendSPP(nil, client, proxy)) }
