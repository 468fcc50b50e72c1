package admin

import (
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"unproxy/gateway/record"
)

// refusalsKept is how many groups of refusals are remembered of each outcome.
const refusalsKept = 32

// Refusals remembers who was refused lately, and why: one group for each peer,
// forward and reason. There is room for a few groups of each outcome, so that
// the rare ones are still there when a common one floods. Its methods may be
// called from any goroutine.
type Refusals struct {
	now func() time.Time
	of  [record.NumOutcomes]refusalRing
}

// NewRefusals returns an empty memory; now is the clock, nil is [time.Now].
func NewRefusals(now func() time.Time) *Refusals {
	if now == nil {
		now = time.Now
	}
	return &Refusals{now: now}
}

// refusalRing is the memory of one outcome.
type refusalRing struct {
	sync.Mutex
	groups [refusalsKept]refusalGroup
	used   int
	missed atomic.Uint64
}

// refusalGroup is what is remembered of one group.
type refusalGroup struct {
	peer            netip.Addr
	forward, reason string
	action          string // of the last one
	count           uint64
	first, last     time.Time
	client          netip.AddrPort // of the last one
	sample          [32]byte       // likewise
	sampled         int
}

// Note takes a finished connection in. It is for event loops: it keeps nothing
// of c, does not allocate, and does not wait. If another loop is noting the
// same outcome just then, the connection is only counted as missed.
func (r *Refusals) Note(c *record.Connection) {
	if !c.Outcome.Refused() {
		return
	}
	ring := &r.of[c.Outcome]
	if !ring.TryLock() {
		ring.missed.Add(1)
		return
	}
	ring.note(c, r.now())
	ring.Unlock()
}

// note takes a connection in; the oldest group makes room for a new one.
func (r *refusalRing) note(c *record.Connection, now time.Time) {
	peer := c.Peer.Addr()
	oldest := 0
	for i := range r.groups[:r.used] {
		g := &r.groups[i]
		if g.peer == peer && g.forward == c.Forward && g.reason == c.Reason {
			g.add(c, now)
			return
		}
		if g.last.Before(r.groups[oldest].last) {
			oldest = i
		}
	}
	if r.used < len(r.groups) {
		oldest = r.used
		r.used++
	}
	r.groups[oldest] = refusalGroup{peer: peer, forward: c.Forward, reason: c.Reason, first: now}
	r.groups[oldest].add(c, now)
}

func (g *refusalGroup) add(c *record.Connection, now time.Time) {
	g.count++
	g.last = now
	g.client, g.action = c.Client, c.Action
	g.sampled = copy(g.sample[:], c.Sample)
}

// Refusal is one group of connections that were refused for the same reason.
type Refusal struct {
	// Peer is an address, or "unix".
	Peer    string `json:"peer"`
	Forward string `json:"forward"` // the listener, as in the log
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	// Client is whom the last of them named.
	Client string `json:"client,omitempty"`
	// Count is how many there were from First to Last.
	Count uint64    `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Meaning and Hint are those of the outcome, see docs/outcomes.md.
	Meaning string `json:"meaning"`
	Hint    string `json:"remedy"`
	// Action is a command that mends it, where one is known.
	Action string `json:"action,omitempty"`
	// Sample is the beginning of the last refused header, quoted. It may be a
	// user's data.
	Sample string `json:"sample,omitempty"`
}

// List returns what is remembered, the latest first, and how many connections
// were missed.
func (r *Refusals) List() (all []Refusal, missed uint64) {
	all = []Refusal{}
	for _, o := range record.Outcomes() {
		ring := &r.of[o]
		missed += ring.missed.Load()
		ring.Lock()
		for i := range ring.groups[:ring.used] {
			all = append(all, ring.groups[i].refusal(o))
		}
		ring.Unlock()
	}
	slices.SortStableFunc(all, func(a, b Refusal) int { return b.Last.Compare(a.Last) })
	return all, missed
}

func (g *refusalGroup) refusal(o record.Outcome) Refusal {
	r := Refusal{
		Peer: "unix", Forward: g.forward, Outcome: o.String(), Reason: g.reason, Client: text(g.client),
		Count: g.count, First: g.first, Last: g.last, Meaning: o.Meaning(), Hint: o.Hint(), Action: g.action,
	}
	if g.peer.IsValid() {
		r.Peer = g.peer.String()
	}
	if g.sampled > 0 {
		r.Sample = strconv.QuoteToASCII(string(g.sample[:g.sampled]))
	}
	return r
}

// text writes an address, "" for none.
func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
