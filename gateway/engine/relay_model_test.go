package engine

import (
	"flag"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/errnos"
	"unproxy/integration_test/race"
)

// depth is the number of steps of the sequences that TestRelayModel explores: -args -depth 5 goes further.
var depth = flag.Int("depth", defaultDepth(), "steps of the relay's model")

// defaultDepth is less with the race detector, which is slow and has but one goroutine to look at.
func defaultDepth() int {
	if race.Enabled {
		return 2
	}
	return 3
}

// modelEnd is what one end has done, according to the model: a queue of bytes that it sent, then a FIN or
// a RST.
type modelEnd struct {
	file       *file
	sent       strings.Builder
	fin, reset bool
}

// model is a relay as two ends that take what the other sent.
type model struct {
	*rig
	client, server *modelEnd
	wasReset       bool
	resetBy        record.Party // if wasReset
	ended          bool
}

// step is one thing that can happen. It reports whether it could.
type step struct {
	name string
	do   func(m *model) bool
}

var bulkPiece = string(randomBytes(bulkRead + 1))

var steps = func() (all []step) {
	for _, who := range []record.Party{record.Client, record.Backend} {
		name := who.String()
		all = append(all,
			step{name + " sends a byte", func(m *model) bool { return m.send(who, "x") }},
			step{name + " sends bulk", func(m *model) bool { return m.send(who, bulkPiece) }},
			step{name + " sends a FIN", func(m *model) bool { return m.finish(who) }},
			step{name + " sends a RST", func(m *model) bool { return m.resetFrom(who) }},
			step{name + " reads", func(m *model) bool { m.end(who).file.consume(1 << 30); return true }},
		)
	}
	return append(all, step{"a tail is due", func(m *model) bool { m.advance(2 * time.Millisecond); return true }})
}()

func (m *model) end(who record.Party) *modelEnd {
	if who == record.Client {
		return m.client
	}
	return m.server
}

func (m *model) send(who record.Party, b string) bool {
	e := m.end(who)
	if e.fin || m.ended {
		return false
	}
	e.sent.WriteString(b)
	e.file.deliver([]byte(b))
	return true
}

func (m *model) finish(who record.Party) bool {
	e := m.end(who)
	if e.fin || m.ended {
		return false
	}
	e.fin = true
	e.file.sendFIN()
	return true
}

func (m *model) resetFrom(who record.Party) bool {
	if m.ended {
		return false
	}
	m.end(who).reset, m.wasReset, m.resetBy = true, true, who
	m.end(who).file.reset()
	return true
}

// begins are the states that the sequences begin from.
var begins = []struct {
	name string
	do   func(m *model)
}{
	{"a new relay", func(*model) {}},
	{"bulk with a low-water mark", func(m *model) {
		for range 5 {
			m.send(record.Client, bulkPiece)
			m.settle()
			m.server.file.consume(1 << 30)
			m.settle()
		}
	}},
	{"a blocked reader", func(m *model) {
		for range 2 {
			m.send(record.Backend, bulkPiece)
			m.settle()
		}
	}},
}

func newModel(t *testing.T) *model {
	k := newScript(t, 0)
	k.sendRoom = 100 << 10
	k.noBatches = true // one session makes no batch
	r := newRig(t, k, Config{Forwards: []*forward.Forward{plainForward(serverA)}})
	r.loop().flows.after = bulkRead
	front := r.open(header)
	return &model{rig: r, client: &modelEnd{file: front}, server: &modelEnd{file: r.backend()}}
}

// check compares the relay with the model.
func (m *model) check() {
	m.Helper()
	for _, d := range [][2]*modelEnd{{m.client, m.server}, {m.server, m.client}} {
		from, to := d[0], d[1].file
		sent := from.sent.String()
		switch {
		case !strings.HasPrefix(sent, string(to.received)):
			m.Errorf("%d bytes arrived, which differ from those sent", len(to.received))
		case m.wasReset:
		case to.writeable() && len(to.received) != len(sent):
			m.Errorf("%d of %d bytes arrived although there is room", len(to.received), len(sent))
		case to.gotFIN != (from.fin && len(to.received) == len(sent)):
			m.Errorf("FIN arrived: %v, after %d of %d bytes, sent: %v", to.gotFIN, len(to.received), len(sent), from.fin)
		}
	}
	done := m.client.fin && m.server.fin && len(m.server.file.received) == m.client.sent.Len() &&
		len(m.client.file.received) == m.server.sent.Len()
	switch {
	case m.ended:
	case m.wasReset:
		m.ended = true
		m.expectEnd(1, record.Reset, record.Relay, m.resetBy)
		for _, e := range []*modelEnd{m.client, m.server} {
			if !e.reset && !e.file.gotRST {
				m.Error("the RST did not arrive")
			}
		}
	case done:
		m.ended = true
		if c := m.lastRecord(1); c.Outcome != record.OK {
			m.Errorf("ended as %v, want ok", c.Outcome)
		}
	case len(m.records) > 0:
		m.Errorf("ended as %v by %v: %s", m.records[0].Outcome, m.records[0].By, m.records[0].Reason)
	}
}

// Every sequence of a few steps, from each beginning, leaves the relay as the model says.
func TestRelayModel(t *testing.T) {
	t.Parallel()
	total := 1
	for range *depth {
		total *= len(steps)
	}
	for _, begin := range begins {
		for n := range total {
			exploreSequence(t, begin.name, begin.do, n)
		}
	}
}

// exploreSequence plays the n-th sequence: its steps are the digits of n.
func exploreSequence(t *testing.T, name string, begin func(*model), n int) {
	m := newModel(t)
	begin(m)
	m.settle()
	trace := &errnos.Named{T: t, Fault: name}
	m.TB = trace
	for range *depth {
		s := steps[n%len(steps)]
		n /= len(steps)
		trace.Fault += ", " + s.name
		if !s.do(m) {
			return // a shorter sequence is the same
		}
		m.settle()
		if m.check(); t.Failed() {
			t.FailNow()
		}
	}
	m.engine.Cut()
	m.settle()
	m.expectClean()
}
