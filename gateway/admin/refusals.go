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

// refusalsKept is how many groups of refusals are kept for each outcome.
const refusalsKept = 32

// Refusals keeps the latest refused connections, grouped by peer, forward and
// reason; those of denied clients by client instead of peer. Each outcome has room for a few groups of its own, so that a flood of
// one outcome does not displace rare ones. Its memory is fixed. Its methods may be
// called from any goroutine.
type Refusals struct {
	now       func() time.Time
	byOutcome [record.NumOutcomes]refusalRing
}

// NewRefusals returns an empty Refusals. now is the clock; nil means [time.Now].
func NewRefusals(now func() time.Time) *Refusals {
	if now == nil {
		now = time.Now
	}
	return &Refusals{now: now}
}

// refusalRing keeps the groups of one outcome. The lock guards groups and used.
type refusalRing struct {
	sync.Mutex
	groups [refusalsKept]refusalGroup
	used   int
	missed atomic.Uint64
}

// refusalGroup is a number of refusals of one peer or client on one forward for one reason.
type refusalGroup struct {
	of              subject
	forward, reason string
	count           uint64
	first, last     time.Time

	// These are of the last connection.
	peer    netip.Addr
	action  string
	client  netip.AddrPort
	sample  [record.MaxSample]byte
	sampled int // bytes of sample
}

// subject is whose refusals a group counts.
type subject struct {
	addr     netip.Addr
	isClient bool
}

// subjectOf returns the client if the connection was refused because of the client: its
// peer is the load balancer of all others, too. A header that names no client is the
// peer's.
func subjectOf(c *record.Connection) subject {
	if c.Outcome == record.ClientDenied && c.Client.IsValid() {
		return subject{c.Client.Addr(), true}
	}
	return subject{c.Peer.Addr(), false}
}

// Note adds a finished connection, if it was refused. It is made for event loops:
// it does not retain c, allocate or block. If another loop adds a connection with
// the same outcome at that moment, the connection is only counted as missed.
func (r *Refusals) Note(c *record.Connection) {
	if !c.Outcome.Refused() {
		return
	}
	ring := &r.byOutcome[c.Outcome]
	if !ring.TryLock() {
		ring.missed.Add(1)
		return
	}
	ring.note(c, r.now())
	ring.Unlock()
}

// note adds a connection to its group. A new group replaces the oldest one if there
// is no room.
func (r *refusalRing) note(c *record.Connection, now time.Time) {
	of := subjectOf(c)
	oldest := 0
	for i := range r.groups[:r.used] {
		g := &r.groups[i]
		if g.of == of && g.forward == c.Forward && g.reason == c.Reason {
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
	r.groups[oldest] = refusalGroup{of: of, forward: c.Forward, reason: c.Reason, first: now}
	r.groups[oldest].add(c, now)
}

func (g *refusalGroup) add(c *record.Connection, now time.Time) {
	g.count++
	g.last = now
	g.peer, g.client, g.action = c.Peer.Addr(), c.Client, c.Action
	g.sampled = copy(g.sample[:], c.Sample)
}

// Refusal is a group of connections of one peer, or of one client, that were refused for
// the same reason.
type Refusal struct {
	// Peer is an address, or "unix" for a peer on a unix socket. In a group of one client
	// it is that of the last connection.
	Peer string `json:"peer"`
	// ByClient means that all connections of the group are of one client, any peer's.
	ByClient bool   `json:"by_client,omitempty"`
	Forward  string `json:"forward"` // the listener, as in the log
	Outcome  string `json:"outcome"`
	Reason   string `json:"reason,omitempty"`
	// Client is the client that the last header named, if any.
	Client string `json:"client,omitempty"`
	// Count is the number of connections from First to Last.
	Count uint64    `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Meaning and Hint are those of the outcome, see docs/outcomes.md.
	Meaning string `json:"meaning"`
	Hint    string `json:"remedy"`
	// Action is a shell command that fixes the cause, if one is known.
	Action string `json:"action,omitempty"`
	// Sample is the beginning of the last refused header, quoted. It may hold
	// user data.
	Sample string `json:"sample,omitempty"`
}

// List returns all groups, the latest first, and the number of connections that
// were missed. The caller owns the slice.
func (r *Refusals) List() (all []Refusal, missed uint64) {
	all = []Refusal{}
	for _, o := range record.Outcomes() {
		ring := &r.byOutcome[o]
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
		Peer: "unix", ByClient: g.of.isClient, Forward: g.forward, Outcome: o.String(), Reason: g.reason, Client: text(g.client),
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

// text returns an address as text, or "" if it is invalid.
func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
