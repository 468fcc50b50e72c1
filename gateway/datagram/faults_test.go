package datagram

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/integration_test/errnos"
	"unproxy/transparent"
)

// otherServer is the backend of the flow that must not notice a fault.
var otherServer = netip.MustParseAddrPort("198.51.100.99:53")

// tour is the life of some flows, during which calls fail. Another forward serves a flow all the time.
type tour struct {
	name     string
	setting  func(*forward.Forward)
	backends []netip.AddrPort // server without any
	config   Config
	prepare  func(*script)
	clients  int    // 1 without a number
	sends    int    // datagrams of each client in a round, 1 without a number
	answers  int    // of the backend to each flow in a round, 1 without a number
	ignores  string // a method whose errors have no effect
}

var tours = []tour{
	{name: "one by one", setting: func(f *forward.Forward) { f.Mark = 7 }},
	{name: "several in a round", sends: 5, answers: 3},
	{name: "bulk", sends: 40, answers: 40, ignores: "SetOption"},
	{name: "several clients", clients: 5},
	{name: "several clients without batches", clients: 5, prepare: func(k *script) { k.noBatches = true }},
	{name: "transparent", setting: transparently},
	{name: "transparent, the port is in use", setting: func(f *forward.Forward) {
		f.Transparent, f.Source = true, transparent.Policy{SourcePort: transparent.Prefer}
	}, prepare: func(k *script) {
		k.bindError = func(a netip.AddrPort) unix.Errno {
			if a.Port() == clientA.Port() {
				return unix.EADDRINUSE
			}
			return 0
		}
	}},
	{name: "failover", backends: []netip.AddrPort{serverB, server}, prepare: func(k *script) {
		k.onConnect = func(s *socket, to netip.AddrPort) {
			if to == serverB {
				s.errors = []unix.Errno{unix.ECONNREFUSED}
			}
		}
	}},
	{name: "a port that the kernel may choose", config: Config{Ephemeral: allPorts{}}},
}

type allPorts struct{}

func (allPorts) Contains(uint16) bool { return true }

// play is a tour on a rig.
type play struct {
	*rig
	*tour
	faulty  *faulty
	sent    map[string]bool // payloads of the victim's clients, and whether they arrived
	replied map[string]bool // the same for the replies
}

const (
	lastingRounds = 6
	laterRounds   = 3
	flowTimeout   = 3 * time.Second
)

func newPlay(t testing.TB, o *tour, f *fault) *play {
	t.Helper()
	k := &faulty{script: newScript(t), fault: f, made: map[place]int{}}
	to := o.backends
	if to == nil {
		to = []netip.AddrPort{server}
	}
	mine := plain(to...)
	mine.Listeners[0].Name, mine.Listeners[0].Endpoint.Addr = "udp://victim", netip.MustParseAddrPort("192.0.2.81:53")
	if o.setting != nil {
		o.setting(mine)
	}
	others := plain(otherServer)
	mine.FlowTimeout, others.FlowTimeout = flowTimeout, flowTimeout
	if o.prepare != nil {
		o.prepare(k.script)
	}
	c := o.config
	c.Kernel = k
	p := &play{rig: newRig(t, 1, c, others, mine), tour: o, faulty: k, sent: map[string]bool{}, replied: map[string]bool{}}
	k.relay = p.relay
	return p
}

// run plays the tour to its end.
func (p *play) run() {
	p.Helper()
	for n := range lastingRounds + laterRounds {
		p.faulty.armed = n < lastingRounds
		if n == lastingRounds {
			p.pass(time.Second)
		}
		p.round(n)
	}
	p.faulty.armed = false
	p.pass(flowTimeout + 2*time.Second)
}

func (p *play) round(n int) {
	p.Helper()
	armed := p.faulty.armed
	p.faulty.armed = false
	p.from(lb, a+fmt.Sprint("other ", n))
	p.faulty.armed = armed
	for _, s := range p.openSockets() {
		if s.to == otherServer {
			s.queue = append(s.queue, datagram{data: fmt.Sprint("reply ", n)})
			break
		}
	}
	s := p.listenerSocket(1)
	for client := range max(1, p.clients) {
		header := v2(netip.AddrPortFrom(clientA.Addr(), clientA.Port()+uint16(client)), dest4)
		for i := range max(1, p.sends) {
			text := fmt.Sprintf("%d.%d.%02d", n, client, i)
			p.sent[text] = false
			s.queue = append(s.queue, datagram{peer: lb, data: header + text})
		}
	}
	p.settle()
	for _, s := range p.openSockets() {
		if s.to == otherServer || !s.to.IsValid() {
			continue
		}
		for i := range max(1, p.answers) {
			text := fmt.Sprintf("%d.%d.%02d", n, s.fd, i)
			p.replied[text] = false
			s.queue = append(s.queue, datagram{data: text})
		}
	}
	p.settle()
	p.pass(250 * time.Millisecond)
}

// openSockets returns the open sockets.
func (p *play) openSockets() (all []*socket) {
	for _, s := range p.sockets {
		if s.isOpen {
			all = append(all, s)
		}
	}
	return all
}

// expectDatagrams checks that nothing arrived that was not sent, nothing twice, everything after the
// fault, and that what is missing was counted as dropped. The other flow got everything.
func (p *play) expectDatagrams() {
	p.Helper()
	arrived := p.arrive(p.sent, func(s *socket) bool { return s.to.IsValid() && s.to != otherServer })
	p.arrive(p.replied, func(s *socket) bool { return s == p.sockets[p.listenerSocket(1).fd-3] })
	lost := 0
	for text, here := range p.sent {
		if !here {
			lost++
			if text[0] >= '0'+lastingRounds {
				p.Errorf("%q did not arrive after the fault", text)
			}
		}
	}
	for text, here := range p.replied {
		if !here && text[0] >= '0'+lastingRounds {
			p.Errorf("reply %q did not arrive after the fault", text)
		}
	}
	dropped := 0
	for _, n := range p.relay.Counters().Dropped {
		dropped += int(n)
	}
	if lost > dropped {
		p.Errorf("%d datagrams are missing, %d were counted", lost, dropped)
	}
	told := 0
	for _, c := range p.records {
		if c.Forward == "udp://victim" {
			told += int(c.DatagramsIn)
		}
	}
	if told != arrived {
		p.Errorf("%d datagrams arrived, the records say %d", arrived, told)
	}
	p.expectOther()
}

// arrive notes what some sockets sent, and returns how much.
func (p *play) arrive(known map[string]bool, of func(*socket) bool) (n int) {
	p.Helper()
	for _, s := range p.sockets {
		if !of(s) {
			continue
		}
		for _, d := range s.sent {
			before, ok := known[d.data]
			if !ok || before {
				p.Errorf("%q arrived, twice: %v", d.data, before)
			}
			known[d.data] = true
			n++
		}
	}
	return n
}

func (p *play) expectOther() {
	p.Helper()
	var requests []string
	for _, s := range p.sockets {
		if s.to == otherServer {
			requests = append(requests, texts(s.sent)...)
		}
	}
	replies, evicted := texts(p.listenerSocket(0).sent), p.evicted()
	for n := range lastingRounds + laterRounds {
		if !slices.Contains(requests, fmt.Sprint("other ", n)) ||
			!slices.Contains(replies, fmt.Sprint("reply ", n)) && (!evicted || n >= lastingRounds) {
			p.Errorf("the other flow has requests %q and replies %q", requests, replies)
		}
	}
}

// evicted reports whether the other flow has been evicted, for lack of resources: a flow ends, and the next
// datagram begins another.
func (p *play) evicted() bool {
	return slices.ContainsFunc(p.records, func(c record.Connection) bool {
		return c.Forward != "udp://victim" && c.Outcome == record.Limit
	})
}

// expectWords checks what the records and the counters say.
func (p *play) expectWords(f *fault) {
	p.Helper()
	row := faultRows[f.method]
	rules := row.opening
	if f.flows {
		rules = row.relaying
	}
	i := slices.IndexFunc(rules, func(r rule) bool { return len(r.errors) == 0 || slices.Contains(r.errors, f.errno) })
	if i < 0 {
		p.Error("the row has no rule for this")
		return
	}
	said := p.words()
	some := false
	for _, word := range said {
		if !slices.Contains(rules[i].words, word) && word != "limit" && (word != "backend_refused" || p.backends == nil) {
			p.Errorf("%q follows, want %q", said, rules[i].words)
		}
		some = some || slices.Contains(rules[i].words, word)
	}
	if f.lasts && !some && !row.maybe && p.ignores != f.method && len(rules[i].words) > 0 && p.backends == nil {
		p.Errorf("%q follows, want one of %q", said, rules[i].words)
	}
}

// words are the outcomes other than ok and the reasons for drops, of the victim's listener and of the
// flows that it evicts.
func (p *play) words() (all []string) {
	for _, c := range p.records {
		if c.Outcome != record.OK {
			all = append(all, c.Outcome.String())
		}
	}
	for d, n := range p.relay.Counters().Dropped {
		if n > 0 {
			all = append(all, Drop(d).String())
		}
	}
	return all
}

// Each method has a row, and each row a method.
func TestFaultRows(t *testing.T) {
	methods := []string{"Host.Watch"}
	for m := range reflect.TypeFor[Kernel]().Methods() {
		methods = append(methods, m.Name)
	}
	for m := range reflect.TypeFor[kernel.Batch]().Methods() {
		methods = append(methods, "Batch."+m.Name)
	}
	for _, m := range methods {
		row, ok := faultRows[m]
		applies := row.opening != nil || row.relaying != nil || row.start || row.handover
		if !ok || applies != (len(row.errors) > 0) || applies == (row.never != "") {
			t.Errorf("method %s has no row in faultRows, or an incomplete one: say how it can fail and what follows", m)
		}
	}
	for m := range faultRows {
		if !slices.Contains(methods, m) {
			t.Errorf("the row of %s belongs to no method", m)
		}
	}
}

// Each call of the flows' life fails with each error, once or from then on. What is lost is counted with a
// fitting reason, nothing leaks, others notice nothing, and the service goes on.
func TestFaults(t *testing.T) {
	t.Parallel()
	fired, exhausted := map[place]bool{}, map[place]bool{}
	for i := range tours {
		o := &tours[i]
		p := newPlay(t, o, nil)
		p.run()
		p.expectDatagrams()
		p.clean()
		for at, n := range p.faulty.made {
			all := faultsAt(at, n, exhausted)
			t.Logf("%s: %+v: %d faults", o.name, at, len(all))
			for _, f := range all {
				o.fail(t, f)
				fired[at] = true
			}
		}
	}
	for method, row := range faultRows {
		for _, flows := range []bool{false, true} {
			want := row.opening != nil
			if flows {
				want = row.relaying != nil
			}
			if want && !fired[place{method, flows}] {
				t.Errorf("no call of %s failed with flows %v", method, flows)
			}
		}
	}
}

// faultsAt lists what is to fail at a place, where n calls are made. The first tour that comes there
// tries all errors, the others one of each kind.
func faultsAt(at place, n int, exhausted map[place]bool) (all []fault) {
	first := !exhausted[at]
	exhausted[at] = true
	for _, c := range errnos.Cases(faultRows[at.method].errors, n, first) {
		all = append(all, fault{at.method, at.flows, c.Nth, c.Errno, c.Lasts})
	}
	return all
}

func (o *tour) fail(t *testing.T, f fault) {
	p := newPlay(&errnos.Named{T: t, Fault: fmt.Sprintf("%s: %+v (%v)", o.name, f, f.errno)}, o, &f)
	p.run()
	if p.faulty.hit == 0 {
		p.Error("it was never made")
	}
	p.expectWords(&f)
	p.expectDatagrams()
	p.clean()
}

// Guest fails with the error of each call, and leaves nothing open. Without batches it makes single calls,
// and a socket without the options of setBuffers is as good.
func TestStartFaults(t *testing.T) {
	for method, row := range faultRows {
		if !row.start {
			continue
		}
		for _, errno := range row.errors {
			for nth := 0; startWith(t, &fault{method: method, nth: nth, errno: errno}); nth++ {
			}
		}
	}
}

// startWith reports whether the fault came to pass.
func startWith(t *testing.T, f *fault) bool {
	t.Helper()
	k := &faulty{script: newScript(t), fault: f, made: map[place]int{}, armed: true}
	r := &rig{TB: t, script: k.script}
	everywhere := plain(server)
	everywhere.Listeners[0].Endpoint.Addr = netip.MustParseAddrPort("[::]:53")
	relay := New(Config{Kernel: k})
	routes := []*engine.Route{{Forward: everywhere, Listener: &everywhere.Listeners[0]}}
	guest, err := relay.Guest(&scriptedHost{rig: r, loops: 2, watched: map[int]uint64{}}, routes)
	if err == nil {
		guest.Close()
	} else if !errors.Is(err, f.errno) {
		t.Errorf("%+v: %v", f, err)
	}
	if err == nil && k.hit > 0 && f.method != "Batch" && f.method != "SetOption" {
		t.Errorf("%+v: no error", f)
	}
	if k.script.open() != 0 || k.batches != 0 {
		t.Errorf("%+v: %d sockets and %d batches are open", f, k.script.open(), k.batches)
	}
	return k.hit > 0
}

// A hand-over that fails leaves the sockets as they were.
func TestDuplicateFaults(t *testing.T) {
	for _, errno := range faultRows["Duplicate"].errors {
		for nth := range 2 {
			p := newPlay(t, &tours[0], &fault{method: "Duplicate", nth: nth, errno: errno})
			p.hosts[0].atOnce = true
			before := p.script.open()
			p.faulty.armed = true
			sockets, err := p.relay.Sockets()
			p.faulty.armed = false
			if !errors.Is(err, errno) || sockets != nil || p.script.open() != before {
				t.Errorf("%v: %v, %v, %d sockets are open, %d before", errno, sockets, err, p.script.open(), before)
			}
		}
	}
}
