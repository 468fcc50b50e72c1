package engine

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// tour is the life of one connection, the victim, during which calls fail. Others are served by the
// same loop all the time.
type tour struct {
	name     string
	setting  func(*forward.Forward)
	config   func(*Config)
	prepare  func(*script)
	backends []forward.Endpoint // serverA without any
	unix     bool               // the listener is a unix socket
	says     []string           // what the client sends, after the header, in pieces
	answers  []string           // what the backend sends
	silent   bool               // the client sends no FIN
	resets   bool               // the backend sends a RST at its end
	blocks   bool               // the backend reads nothing, and the client sends a RST at its end
	relays   bool               // only calls of the relay fail: earlier ones do in other tours
	ignores  string             // a method whose errors may have no effect
	retried  []record.Outcome   // outcomes if a connect is retried: the plans are for other connects
	header   string             // header without one
	room     int                // send buffers
	pace     time.Duration
	outcome  record.Outcome // without a fault
}

// bulk is enough to be spliced, in pieces of a bulk read.
var bulk = pieces(string(randomBytes(7*80<<10+17)), 80<<10)

func pieces(s string, size int) (all []string) {
	for ; len(s) > size; s = s[size:] {
		all = append(all, s[:size])
	}
	return append(all, s)
}

var tours = []tour{
	{name: "small", says: []string{"HELO there\r\n", "QUIT\r\n", "x", "y"},
		answers: []string{"220 ready\r\n", "221 bye\r\n"},
		setting: func(f *forward.Forward) { f.Keepalive, f.UserTimeout, f.Mark = time.Second, time.Minute, 7 }},
	{name: "the backend answers at once", says: []string{"a", "b", "c"}, answers: []string{"1", "2"},
		prepare: func(k *script) { k.plans[serverA] = []plan{{}} }},
	{name: "two headers in pieces", header: header[:20], says: []string{header[20:] + header + "early", "late"},
		setting: func(f *forward.Forward) { f.Headers = 2 }},
	{name: "bulk", relays: true, says: bulk, answers: bulk, room: 1 << 20},
	{name: "bulk to slow readers", relays: true, says: bulk, answers: bulk, room: 50 << 10},
	{name: "bulk without pipes", relays: true, says: bulk, answers: bulk, room: 1 << 20,
		prepare: func(k *script) { k.pipeErrors = unix.EMFILE }},
	{name: "bulk that the backend's socket refuses to splice", relays: true, says: bulk, room: 1 << 20,
		prepare: func(k *script) { k.spliceError, k.goodSplices, k.drainErrors = unix.EINVAL, 1, 1 }},
	{name: "transparent", setting: setTransparent, says: []string{"one", "two"}, answers: []string{"three"},
		prepare: func(k *script) {
			k.bindError = func(a netip.AddrPort) unix.Errno {
				if a.Port() == client4.Port() {
					return unix.EADDRINUSE
				}
				return 0
			}
		}},
	{name: "a TCP option", ignores: "SetOption", setting: func(f *forward.Forward) { carrying(f) },
		says: []string{"one", "two"}, answers: []string{"three"},
		prepare: func(k *script) { k.programs, k.plans[serverA] = true, []plan{promising} }},
	{name: "failover", says: []string{"one"}, answers: []string{"two"}, backends: []forward.Endpoint{serverC, serverA},
		prepare: func(k *script) { k.plans[serverC] = []plan{refused} }},
	{name: "refused", outcome: record.BackendRefused, prepare: func(k *script) { k.plans[serverA] = []plan{refused} }},
	{name: "reset", says: []string{"one"}, answers: []string{"two"}, resets: true, silent: true, outcome: record.Reset},
	{name: "reset of a blocked connection", relays: true, says: bulk, blocks: true, room: 50 << 10, outcome: record.Reset},
	{name: "diagnosis", retried: diagnosed[0].outcomes, setting: setTransparent,
		outcome: record.NoReturnPath, pace: 250 * time.Millisecond,
		prepare: func(k *script) { k.plans[serverA] = []plan{silent, silent, {waits: 1}} }},
	{name: "diagnosis, answered", retried: []record.Outcome{record.OK}, setting: setTransparent,
		outcome: record.ConnectTimeout, pace: 250 * time.Millisecond,
		prepare: func(k *script) { k.plans[serverA] = []plan{silent, {waits: 1}} }},
	{name: "diagnosis, refused", retried: []record.Outcome{record.BackendUnreachable},
		setting: setTransparent, outcome: record.ConnectTimeout, pace: 250 * time.Millisecond,
		prepare: func(k *script) { k.plans[serverA] = []plan{silent, {waits: 1, result: unix.EHOSTUNREACH}, refused} }},
	{name: "a health check", setting: func(f *forward.Forward) { f.Health = only(lb) }, header: "GET / HTTP/1.0\r\n\r\n",
		outcome: record.Empty},
	{name: "unix sockets", ignores: "SetOption", unix: true, backends: []forward.Endpoint{serverUnix},
		says:    []string{"one", "two"},
		answers: []string{"three", "four"}},
	{name: "no port left", backends: []forward.Endpoint{serverA6}, outcome: record.Limit,
		prepare: func(k *script) { k.plans[serverA6] = []plan{{errno: unix.EADDRNOTAVAIL}} }},
	{name: "no address to connect from", backends: []forward.Endpoint{serverA6}, outcome: record.BackendUnreachable,
		prepare: func(k *script) { k.plans[serverA6], k.noSource = []plan{{errno: unix.EADDRNOTAVAIL}}, true }},
	{name: "a port that the kernel may choose", config: func(c *Config) { c.Ephemeral = allPorts{} },
		says: []string{"one"}},
	{name: "tproxy", setting: func(f *forward.Forward) { f.TProxy = true }, header: local, says: []string{"one"}},
}

type allPorts struct{}

func (allPorts) Contains(uint16) bool { return true }

// play is a tour on a rig.
type play struct {
	*rig
	*tour
	faulty   *faulty
	others   []bystander
	client   *file
	said     int
	answered map[*file]int
	rounds   int
	up, down string // all that client and backend send
}

// bystander is a connection that must not notice a fault.
type bystander struct {
	front, back *file
	up, down    string
}

func (o *tour) forward() *forward.Forward {
	to := o.backends
	if to == nil {
		to = []forward.Endpoint{serverA}
	}
	f := plainForward(to...)
	at := forward.Endpoint{Addr: netip.MustParseAddrPort("192.0.2.81:80")}
	if o.unix {
		at = forward.Endpoint{Path: "@victim"}
	}
	f.Listeners[0].Name, f.Listeners[0].Endpoint = "victim", at
	f.Source = transparent.Policy{SourcePort: transparent.Prefer}
	if o.setting != nil {
		o.setting(f)
	}
	return f
}

// newPlay starts an engine that serves two bystanders.
func newPlay(t testing.TB, o *tour, f *fault) *play {
	t.Helper()
	k := &faulty{script: newScript(t, 0), fault: f, made: map[place]int{}}
	if o.room > 0 {
		k.sendRoom = o.room
	}
	c := Config{Kernel: k, Forwards: []*forward.Forward{plainForward(serverB), o.forward()}}
	if o.config != nil {
		o.config(&c)
	}
	p := &play{rig: newRig(t, k.script, c), tour: o, faulty: k, answered: map[*file]int{}}
	k.engine = p.engine
	p.loop().flows.after = 100 << 10
	p.up, p.down = p.payload(), strings.Join(o.answers, "")
	for range 2 {
		p.others = append(p.others, p.bystander())
	}
	if len(o.backends) == 0 {
		k.plans[serverA] = []plan{{waits: 1}}
	}
	if o.prepare != nil {
		o.prepare(k.script)
	}
	return p
}

func (p *play) bystander() bystander {
	front := p.open(header)
	return bystander{front: front, back: p.backend()}
}

// reported returns the record of the n-th connection of the victim's listener, or nil.
func (p *play) reported(n int) *record.Connection {
	for i := range p.records {
		if p.records[i].Forward == "victim" {
			if n--; n == 0 {
				return &p.records[i]
			}
		}
	}
	return nil
}

// The fault ends after lastingRounds, which is longer than resourceTimeout.
const (
	lastingRounds = 60
	maxRounds     = 160
)

// run plays the tour to its end.
func (p *play) run() *record.Connection {
	p.Helper()
	p.faulty.armed = true
	for p.rounds = 0; p.rounds < maxRounds && p.reported(1) == nil; p.rounds++ {
		p.faulty.armed = p.rounds < lastingRounds
		p.round()
	}
	p.faulty.armed = false
	p.settle()
	return p.reported(1)
}

func (p *play) round() {
	p.Helper()
	for i := range p.others {
		o := &p.others[i]
		o.up, o.down = o.up+"ping", o.down+"pong"
		o.front.deliver([]byte("ping"))
		o.back.deliver([]byte("pong"))
	}
	p.clientActs()
	p.settle()
	p.backendActs()
	p.settle()
	p.expectOthers()
	p.advance(max(p.pace, 50*time.Millisecond))
}

func (p *play) clientActs() {
	switch {
	case p.client == nil:
		from := netip.AddrPortFrom(lb.Addr(), 41000)
		if p.unix {
			from = netip.AddrPort{}
		}
		p.client = p.arrive(p.listenerSocket(1), from)
		p.client.isUnix, p.client.source = p.unix, dest4
		p.client.deliver([]byte(p.firstBytes()))
	case p.said < len(p.says):
		p.client.deliver([]byte(p.says[p.said]))
		p.said++
	case p.blocks:
		p.client.reset()
	case !p.silent && !p.client.finReceived:
		p.client.sendFIN()
	}
	p.client.consume(1 << 30)
}

func (p *play) firstBytes() string {
	if p.header != "" {
		return p.header
	}
	return header
}

// payload is what the client sends, without headers.
func (p *play) payload() string {
	all := p.firstBytes() + strings.Join(p.says, "")
	for range p.tour.forward().Headers {
		all = strings.TrimPrefix(all, header)
	}
	return strings.TrimPrefix(all, local)
}

func (p *play) backendActs() {
	s := p.faulty.victim()
	if s == nil || s.state != relaying {
		return
	}
	f := p.files[s.sides[backend].fd-3]
	switch n := p.answered[f]; {
	case n < len(p.answers):
		f.deliver([]byte(p.answers[n]))
		p.answered[f]++
	case p.blocks:
		return
	case len(f.received) < len(p.up):
	case p.resets && !f.wasReset:
		f.reset()
	case !f.finReceived:
		f.sendFIN()
	}
	f.consume(1 << 30)
}

func (p *play) expectOthers() {
	p.Helper()
	for _, o := range p.others {
		if string(o.back.received) != o.up || string(o.front.received) != o.down {
			p.Errorf("round %d: another connection got %d and %d bytes of %d and %d", p.rounds, len(o.back.received),
				len(o.front.received), len(o.up), len(o.down))
		}
		o.front.consume(1 << 30)
		o.back.consume(1 << 30)
	}
}

// expectBytes checks that both ends got a prefix of what the other sent, all of it if that is what the
// record says, and that no end takes a part for the whole.
func (p *play) expectBytes(c *record.Connection) {
	p.Helper()
	up, down := p.up, p.down
	for _, d := range p.dials {
		if d.to == serverB {
			continue
		}
		p.expectPart(c, d.far, up)
	}
	p.expectPart(c, p.client, down)
	if c.Outcome == record.OK && (string(p.backend().received) != up || string(p.client.received) != down) {
		p.Errorf("ok, but %d of %d and %d of %d bytes arrived", len(p.backend().received), len(up),
			len(p.client.received), len(down))
	}
	if refused := c.Outcome.Refused() || c.Outcome == record.Reset; refused && !p.client.gotRST && !p.client.wasReset {
		p.Errorf("%v, and the client got no RST", c.Outcome)
	}
}

func (p *play) expectPart(c *record.Connection, f *file, want string) {
	p.Helper()
	if !strings.HasPrefix(want, string(f.received)) {
		p.Errorf("%d bytes arrived, which differ from those sent", len(f.received))
	}
	if f.isOpen && f != p.client {
		p.Error("the backend's socket is open")
	}
	if n := len(f.received); n > 0 && n < len(want) && f.gotFIN && !f.gotRST && !f.wasReset {
		p.Errorf("%v: a FIN after %d of %d bytes", c.Outcome, n, len(want))
	}
}

// expectService checks that the gateway serves as before: the bystanders to their end, and new connections.
func (p *play) expectService() {
	p.Helper()
	p.advance(time.Second)
	p.expectOthers()
	p.plans = map[forward.Endpoint][]plan{}
	p.bindError, p.spliceError, p.pipeErrors, p.noSource = nil, 0, 0, false
	later := []bystander{p.bystander()}
	later[0].front.deliver([]byte("still here"))
	p.settle()
	later[0].up = "still here"
	for _, o := range append(p.others, later...) {
		o.front.sendFIN()
		o.back.sendFIN()
		p.settle()
		if string(o.back.received) != o.up || !o.front.gotFIN || o.front.gotRST || !o.back.gotFIN || o.back.gotRST {
			p.Errorf("another connection did not end normally")
		}
	}
	p.expectAccepted()
	p.engine.Cut()
	p.settle()
	p.expectClean()
}

// expectAccepted checks that a later connection to the victim's listener is accepted.
func (p *play) expectAccepted() {
	p.Helper()
	f := p.arrive(p.listenerSocket(1), lb)
	f.isUnix = p.unix
	p.advance(time.Second)
	if n := len(p.listenerSocket(1).list); n != 0 {
		p.Errorf("%d connections wait to be accepted", n)
	}
}
