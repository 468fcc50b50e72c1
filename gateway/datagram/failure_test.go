package datagram

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// An ICMP error is reported and counted, and the flow goes on: other gateways
// never deliver another reply after one.
func TestBackendDownAndUp(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a+"one")
	s := r.back()
	s.errors = []syscall.Errno{unix.ECONNREFUSED} // reported as an event
	r.settle()
	r.from(lb, a+"two")
	s.failing = []syscall.Errno{unix.ECONNREFUSED} // reported by the next send
	r.from(lb, a+"three")
	s.failing = []syscall.Errno{0, unix.ECONNREFUSED} // reported by the second of several sends
	r.from(lb, a+"four", a+"five", a+"")
	if r.back() != s {
		t.Fatal("the flow's socket was replaced")
	}
	s.took(t, "one", "two", "three", "four", "five", "")
	r.dropped(map[Drop]uint64{BackendRefused: 3})
	r.answer(s, "back again")
	r.went(to(lb, "back again"))
	r.pass(time.Minute + time.Second)
	r.ended(1, record.OK, record.Timeout)
	r.clean()
}

// A flow ends with the backend's last error if nothing followed it.
func TestOutcomeIsTheLastBackendError(t *testing.T) {
	rows := []struct {
		errno   syscall.Errno
		outcome record.Outcome
		by      record.Party
		drop    Drop
	}{
		{unix.ECONNREFUSED, record.BackendRefused, record.Backend, BackendRefused},
		{unix.EHOSTUNREACH, record.BackendUnreachable, record.Gateway, BackendUnreachable},
		{unix.ENETUNREACH, record.BackendUnreachable, record.Gateway, BackendUnreachable},
	}
	for _, row := range rows {
		r := one(t, plain(server))
		r.from(lb, a+"one")
		s := r.back()
		s.errors = []syscall.Errno{row.errno}
		r.settle()
		r.pass(time.Minute + time.Second)
		if c := r.ended(1, row.outcome, row.by); c.Reason != row.errno.Error() {
			t.Errorf("reason %q, want %q", c.Reason, row.errno)
		}
		r.dropped(map[Drop]uint64{row.drop: 1})
	}
}

// A datagram that cannot be sent is dropped with a reason. The datagrams around it are sent.
func TestSendErrorDropsOneDatagram(t *testing.T) {
	rows := []struct {
		name  string
		errno []syscall.Errno // of the calls that send the second of three datagrams
		want  []string
		drops map[Drop]uint64
		flows int64 // datagrams_in
	}{
		{"interrupted", []syscall.Errno{unix.EINTR}, []string{"1", "22", "333"}, nil, 3},
		{"too big", []syscall.Errno{unix.EMSGSIZE, unix.EMSGSIZE}, []string{"1", "333"}, map[Drop]uint64{TooBig: 1}, 2},
		{"path MTU decreased", []syscall.Errno{unix.EMSGSIZE}, []string{"1", "22", "333"}, nil, 3},
		{"not permitted", []syscall.Errno{unix.EPERM, unix.EPERM}, []string{"1", "333"},
			map[Drop]uint64{Permission: 1}, 2},
		{"refused twice", []syscall.Errno{unix.ECONNREFUSED, unix.ECONNREFUSED}, []string{"1", "333"}, map[Drop]uint64{BackendRefused: 2}, 2},
		{"no route", []syscall.Errno{unix.ENETUNREACH, unix.ENETUNREACH}, []string{"1", "333"},
			map[Drop]uint64{BackendUnreachable: 2}, 2},
		{"socket buffer full", []syscall.Errno{unix.EAGAIN}, []string{"1"}, map[Drop]uint64{BackendBusy: 2}, 1},
		{"no buffers", []syscall.Errno{unix.ENOBUFS}, []string{"1"}, map[Drop]uint64{BackendBusy: 2}, 1},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := one(t, plain(server))
			r.from(lb, a)
			s := r.back()
			s.took(t, "")
			s.failing = append([]syscall.Errno{0}, row.errno...)
			r.from(lb, a+"1", a+"22", a+"333")
			s.took(t, row.want...)
			r.dropped(row.drops)
			r.pass(time.Minute + time.Second)
			if c := r.last(1); c.DatagramsIn != row.flows+1 {
				t.Errorf("datagrams_in %d, want %d", c.DatagramsIn, row.flows+1)
			}

			// The same for a single datagram, which takes another code path.
			r.from(lb, a)
			s = r.back()
			s.sent, s.failing = nil, row.errno
			r.from(lb, a+"x")
			if got := len(s.sent); got != 1 && row.drops == nil || got != 0 && row.drops != nil {
				t.Errorf("%d datagrams arrived; want 1 without drops, else 0", got)
			}
		})
	}
}

// A flow that fails over to another backend may evict a flow of the same receive call. The evicted
// flow's datagrams have been sent by then.
func TestFailoverEvictsFlowOfSameBatch(t *testing.T) {
	r := one(t, plain(server, serverB))
	r.from(lb, a+"one")
	s := r.back()
	s.failing = []syscall.Errno{0, unix.ECONNREFUSED}
	tries := 0
	r.connectError = func(to, _ netip.AddrPort) syscall.Errno {
		if tries++; tries == 2 { // the failover of client A, after the connect for client B
			return unix.EMFILE
		}
		return 0
	}
	r.from(lb, a+"two", a+"three!", b+"four", b+"five")
	if c := r.ended(1, record.Limit, record.Gateway); c.Client != clientB || c.DatagramsIn != 2 {
		t.Errorf("the flow of %v was evicted after %d datagrams", c.Client, c.DatagramsIn)
	}
	if s := r.back(); s.to != serverB {
		t.Errorf("the remaining flow goes to %v, want %v", s.to, serverB)
	}
	r.sockets[2].took(t, "four", "five")
}

// A new flow without a descriptor evicts an older one. If the backend refuses the datagrams sent
// before the eviction, the old flow must not fail over: it would take the descriptor of the new
// flow.
func TestEvictedFlowDoesNotFailOver(t *testing.T) {
	r := one(t, plain(server, serverB))
	r.from(lb, a+"one")
	r.back().failing = []syscall.Errno{unix.ECONNREFUSED}
	short := []syscall.Errno{unix.EMFILE, unix.EMFILE}
	r.connectError = func(_, _ netip.AddrPort) syscall.Errno { return next(&short) }
	r.sockets[1].sent = nil
	r.from(lb, a+"two", b+"three")
	if c := r.ended(1, record.Limit, record.Gateway); c.Client != clientA || c.DatagramsIn != 2 {
		t.Errorf("the flow of %v was evicted after %d datagrams", c.Client, c.DatagramsIn)
	}
	r.sockets[1].took(t, "two")
	r.back().took(t, "three")
	r.dropped(map[Drop]uint64{BackendRefused: 1})
	r.pass(time.Minute + time.Second)
	r.last(2)
	r.clean()
}

// A reply that cannot be sent is dropped with a reason.
func TestReplyErrorDropsOneReply(t *testing.T) {
	rows := []struct {
		errno []syscall.Errno
		want  []string
		drops map[Drop]uint64
	}{
		{[]syscall.Errno{unix.EINTR}, []string{"1", "22", "333"}, nil},
		{[]syscall.Errno{unix.EAGAIN}, []string{"1"}, map[Drop]uint64{PeerBusy: 2}},
		{[]syscall.Errno{unix.ENETUNREACH, unix.ENETUNREACH}, []string{"1", "333"}, map[Drop]uint64{PeerUnreachable: 1}},
		{[]syscall.Errno{unix.EMSGSIZE, unix.EMSGSIZE}, []string{"1", "333"}, map[Drop]uint64{TooBig: 1}},
		{[]syscall.Errno{unix.EPERM, unix.EPERM}, []string{"1", "333"}, map[Drop]uint64{Permission: 1}},
	}
	for _, row := range rows {
		r := one(t, plain(server))
		r.from(lb, a)
		s := r.back()
		r.worker().table.find(r.worker().onlyKey()).expected = 3
		r.listenerSocket(0).failing = append([]syscall.Errno{0}, row.errno...)
		r.answer(s, "1", "22", "333")
		r.listenerSocket(0).took(t, row.want...)
		r.dropped(row.drops)
	}
}

// With several backends, the first reachable one of the client's address family is used. If it
// refuses a datagram, the next one is used.
func TestFailover(t *testing.T) {
	r := one(t, plain(server6, server, serverB))
	r.from(lb, a+"one")
	s := r.back()
	if s.to != server {
		t.Fatalf("connected to %v, want the first of the client's family, %v", s.to, server)
	}
	s.errors = []syscall.Errno{unix.ECONNREFUSED}
	r.settle()
	s = r.back()
	if s.to != serverB {
		t.Fatalf("connected to %v after a refusal, want %v", s.to, serverB)
	}
	r.from(lb, a+"two")
	s.took(t, "two")
	r.answer(s, "yes")
	r.went(to(lb, "yes"))
	s.failing = []syscall.Errno{unix.ECONNREFUSED}
	r.from(lb, a+"three")
	if s = r.back(); s.to != server6 {
		t.Errorf("connected to %v after two refusals, want %v", s.to, server6)
	}
	r.pass(time.Minute + time.Second)
	r.last(1)
	r.clean()

	r.connectError = func(to, _ netip.AddrPort) syscall.Errno {
		if to == server {
			return unix.ENETUNREACH
		}
		return 0
	}
	r.from(lb, a+"one")
	if s = r.back(); s.to != serverB {
		t.Errorf("connected to %v, want the first reachable one, %v", s.to, serverB)
	}
	s.errors = []syscall.Errno{unix.ECONNREFUSED}
	r.settle()
	if s = r.back(); s.to != server6 {
		t.Errorf("connected to %v after a refusal, want %v", s.to, server6)
	}
	r.connectError = func(netip.AddrPort, netip.AddrPort) syscall.Errno { return unix.ENETUNREACH }
	s.errors = []syscall.Errno{unix.ECONNREFUSED}
	r.settle()
	r.ended(2, record.BackendUnreachable, record.Gateway)
	r.clean()
}

// A backend that refused is tried last by new flows, and in its place again when the time is over.
// The controls remember nothing: without the setting, and where a firewall may have refused one client
// alone.
func TestRefusingBackendIsTriedLast(t *testing.T) {
	rows := []struct {
		name   string
		change func(*forward.Forward)
		next   netip.AddrPort // of the second flow
	}{
		{"plain", func(f *forward.Forward) { f.BackendRetry = 90 * time.Second }, serverB},
		{"off", func(*forward.Forward) {}, server},
		{"transparent", func(f *forward.Forward) { f.BackendRetry, f.Transparent = time.Minute, true }, server},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := one(t, with(plain(server, serverB), row.change))
			r.from(lb, a+"one")
			r.back().errors = []syscall.Errno{unix.ECONNREFUSED}
			r.settle()
			if s := r.back(); s.to != serverB {
				t.Fatalf("connected to %v after a refusal, want %v", s.to, serverB)
			}
			r.from(lb, b+"two")
			if s := r.backs()[1]; s.to != row.next {
				t.Errorf("the next flow goes to %v, want %v", s.to, row.next)
			}
			r.pass(90*time.Second + time.Second)
			r.from(lb, b+"three")
			s := r.back()
			if s.to != server {
				t.Errorf("later a flow goes to %v, want %v", s.to, server)
			}
			r.answer(s, "yes")
			var changes []string
			for _, n := range r.notices {
				if strings.HasPrefix(n.Event, "backend_") {
					changes = append(changes, n.Event+" "+n.Detail)
				}
			}
			want := []string{"backend_down " + server.String(), "backend_up " + server.String()}
			if row.next == server {
				want = nil
			}
			if !slices.Equal(changes, want) {
				t.Errorf("reports %q, want %q", changes, want)
			}
		})
	}
}

// If a flow cannot start, its datagram is dropped and no state remains.
func TestFlowThatCannotStartIsDropped(t *testing.T) {
	header := func(f *forward.Forward) { f.Listeners[0].Backends = []forward.Backend{{FromHeader: true}} }
	name := func(f *forward.Forward) {
		f.Listeners[0].Backends = []forward.Backend{{Host: "nowhere.invalid", Port: 53}}
	}
	rows := []struct {
		name    string
		change  func(*forward.Forward)
		connect syscall.Errno
		data    string
		drop    Drop
	}{
		{"no route", nil, unix.ENETUNREACH, a, BackendUnreachable},
		{"not permitted", nil, unix.EACCES, a, Permission},
		{"no port left", nil, unix.EAGAIN, a, Limit},
		{"no descriptor left", nil, unix.EMFILE, a, Limit},
		{"a name that does not resolve", name, 0, a, BackendUnreachable},
		{"a destination that is not allowed", header, 0, a, DestinationDenied},
		{"no destination", header, 0, local, NoAddress},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := plain(server)
			f.MaxConnectionsPerClient = 5
			if row.change != nil {
				row.change(f)
			}
			r := one(t, f)
			r.connectError = func(netip.AddrPort, netip.AddrPort) syscall.Errno { return row.connect }
			r.from(lb, row.data+"one", row.data+"two")
			r.dropped(map[Drop]uint64{row.drop: 2})
			if len(r.records) != 0 {
				t.Errorf("%d flows were reported, want 0", len(r.records))
			}
			r.clean()
		})
	}
}

// The header selects the backend among the allowed destinations.
func TestBackendFromHeader(t *testing.T) {
	f := plain()
	f.Listeners[0].Backends = []forward.Backend{{FromHeader: true}}
	f.AllowDestination = only(server, listener4)
	r := one(t, f)
	r.from(lb, v2(clientA, server)+"one")
	if s := r.back(); s.to != server {
		t.Errorf("connected to %v, want %v", s.to, server)
	}
	r.from(lb, v2(clientA, listener4)+"round and round")
	r.dropped(map[Drop]uint64{DestinationDenied: 1})
}

// Datagrams that the kernel drops because a receive queue is full are counted.
func TestQueueOverflowsAreCounted(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a+"one")
	r.listenerSocket(0).drops = 7
	r.pass(2 * time.Second)
	r.dropped(map[Drop]uint64{ReceiveQueueFull: 7})
	r.from(lb, a+"two")
	r.pass(2 * time.Second)
	r.dropped(map[Drop]uint64{ReceiveQueueFull: 7})
	r.from(lb, a+"three")
	r.listenerSocket(0).drops = 2 // it has gone round
	r.pass(2 * time.Second)
	s := r.back()
	for range 40 {
		s.queue = append(s.queue, datagram{data: "x"})
	}
	r.settle()
	s.drops = 3
	r.pass(time.Minute)
	r.last(1)
	if n := r.relay.Counters().Dropped[ReplyQueueFull]; n != 3 {
		t.Errorf("%d replies were lost, want 3", n)
	}
}

// While the kernel does not say how many datagrams it has dropped, none are counted, and later all.
func TestUnreadableOverflowsAreCountedLater(t *testing.T) {
	k := &faulty{script: newScript(t), made: map[place]int{}}
	k.fault = &fault{method: "Overflows", nth: 1, errno: unix.ENOBUFS}
	r := newRig(t, 1, Config{Kernel: k}, plain(server))
	for i, want := range []uint64{7, 7, 19} {
		k.armed = true
		r.from(lb, a+fmt.Sprint(i))
		r.listenerSocket(0).drops = uint32(7 + 6*i)
		r.pass(2 * time.Second)
		r.dropped(map[Drop]uint64{ReceiveQueueFull: want})
	}
	if k.hit != 1 {
		t.Errorf("%d calls failed, want 1", k.hit)
	}
}

// Drops are reported at intervals, all together.
func TestDropsAreTold(t *testing.T) {
	r := one(t, plain(server))
	r.from(unknown, a)
	r.pass(time.Second)
	if len(r.notices) != 1 {
		t.Fatalf("%d notices, want 1", len(r.notices))
	}
	n := r.notices[0]
	if n.Event != "datagrams_dropped" || n.Forward != "udp://first" || n.Detail != "untrusted 1; last from "+unknown.String() {
		t.Errorf("reported %+v", n)
	}
	for range 1000 {
		r.from(unknown, a)
		r.from(lb, a+"x", "rubbish")
	}
	r.pass(8 * time.Second)
	if len(r.notices) != 1 {
		t.Fatalf("%d notices within ten seconds, want 1", len(r.notices))
	}
	r.pass(3 * time.Second)
	if len(r.notices) != 2 || !strings.Contains(r.notices[1].Detail, "untrusted 1000, not_proxy 1000; last from "+lb.String()+"; last reason: not a v2 signature") {
		t.Errorf("reported %+v", r.notices)
	}
	r.pass(time.Hour)
	if len(r.notices) != 2 {
		t.Errorf("%d notices, want 2", len(r.notices))
	}
	r.from(unknown, a)
	r.pass(time.Second)
	r.from(unknown, a)
	r.worker().Close() // reports the last drops at once
	if len(r.notices) != 4 {
		t.Errorf("%d notices, want 4", len(r.notices))
	}
}

// Drops that the configuration asks for are counted and not reported.
func TestQuietDrops(t *testing.T) {
	r := one(t, with(plain(server), func(f *forward.Forward) { f.CloseLocal, f.Health = true, only(unknown) }))
	r.from(lb, local)
	r.from(unknown, a)
	r.pass(time.Minute)
	r.dropped(map[Drop]uint64{Local: 1, Health: 1})
	if len(r.notices) != 0 {
		t.Errorf("reported %+v", r.notices)
	}
}

func TestDropTable(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Drops() {
		if d.String() == "" || d.Meaning() == "" || seen[d.String()] {
			t.Errorf("drop %d is %q, %q", d, d, d.Meaning())
		}
		seen[d.String()] = true
	}
	if len(Drops()) != int(numDrops)-1 {
		t.Errorf("%d reasons, want %d", len(Drops()), numDrops-1)
	}
	for _, o := range record.Outcomes() {
		if d := dropFor(o); d != Internal && d.String() != o.String() {
			t.Errorf("outcome %v is drop %v", o, d)
		}
	}
}
