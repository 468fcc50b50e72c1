package datagram

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// naive is the simplest table of flows: a list ordered by last activity.
type naive struct {
	limit, perClient int
	timeout          int64
	flows            []naiveFlow
	sent             map[string][]string // payloads, by flow
	dropped          int
	ended            []string // flows and how they ended, in order
	begun            int
}

type naiveFlow struct {
	name   string
	client netip.Addr
	alive  int64
	began  int64
	number int // in the order of their beginning
	sent   int // datagrams
}

// take records what must happen to a datagram of a flow.
func (n *naive) take(name string, client netip.Addr, payload string, now int64) {
	i := slices.IndexFunc(n.flows, func(f naiveFlow) bool { return f.name == name })
	if i >= 0 {
		f := n.flows[i]
		f.alive = now
		f.sent++
		n.flows = append(slices.Delete(n.flows, i, i+1), f)
		n.sent[name] = append(n.sent[name], payload)
		return
	}
	of := 0
	for _, f := range n.flows {
		if f.client == client {
			of++
		}
	}
	if of >= n.perClient {
		n.dropped++
		return
	}
	if len(n.flows) >= n.limit {
		i := n.victim(now)
		n.ended = append(n.ended, n.flows[i].name+" limit")
		n.flows = slices.Delete(n.flows, i, i+1)
	}
	n.begun++
	n.flows = append(n.flows, naiveFlow{name: name, client: client, alive: now, began: now, number: n.begun, sent: 1})
	n.sent[name] = append(n.sent[name], payload)
}

// victim returns the index of the flow that makes room: the first one of those that sent one
// datagram, unless it began less than a second ago and they are fewer than a quarter.
func (n *naive) victim(now int64) int {
	first, count := -1, 0
	for i, f := range n.flows {
		if f.sent > 1 {
			continue
		}
		count++
		if first < 0 || f.number < n.flows[first].number {
			first = i
		}
	}
	if first < 0 || now-n.flows[first].began < int64(time.Second) && 4*count < len(n.flows) {
		return 0
	}
	return first
}

// expire ends the flows that have been idle for the timeout.
func (n *naive) expire(now int64) {
	for len(n.flows) > 0 && n.flows[0].alive+n.timeout <= now {
		n.ended = append(n.ended, n.flows[0].name+" ok")
		n.flows = n.flows[1:]
	}
}

// In random histories of clients over several sockets of the peer, flows live, are evicted and end
// as in the naive table, and each payload reaches the backend over its own flow, in order.
func TestFlowsLikeANaiveTable(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { playHistory(t, seed) })
	}
}

func playHistory(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	n := &naive{limit: 1 + random.IntN(12), perClient: 1 + random.IntN(4), timeout: int64(time.Minute), sent: map[string][]string{}}
	r := newRig(t, 1, Config{MaxFlows: n.limit}, with(plain(server), func(f *forward.Forward) { f.MaxConnectionsPerClient = n.perClient }))
	for step := range 400 {
		peer := netip.AddrPortFrom(lb.Addr(), uint16(40000+random.IntN(3)))
		var batch []string
		for range 1 + random.IntN(5) {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(random.IntN(4))}), uint16(1+random.IntN(3)))
			name := fmt.Sprint(peer, client)
			payload := fmt.Sprintf("%s|%d%*d", name, step, random.IntN(4), 0)
			batch = append(batch, v2(client, dest4)+payload)
			n.take(name, client.Addr(), payload, r.clock)
		}
		r.from(peer, batch...)
		if random.IntN(4) == 0 {
			d := time.Duration(random.IntN(40)) * time.Second
			for ; d > 0; d -= 250 * time.Millisecond {
				r.pass(min(d, 250*time.Millisecond))
				n.expire(r.clock)
			}
		}
	}
	for range 300 {
		r.pass(250 * time.Millisecond)
		n.expire(r.clock)
	}
	var ended []string
	for _, c := range r.records {
		ended = append(ended, fmt.Sprint(c.Peer, c.Client, " ", c.Outcome))
	}
	if !slices.Equal(ended, n.ended) {
		t.Errorf("flows ended\n%q, in the naive table\n%q", ended, n.ended)
	}
	r.compareSent(n)
	if got := r.relay.Counters().Dropped[Limit]; got != uint64(n.dropped) {
		t.Errorf("%d datagrams dropped, in the naive table %d", got, n.dropped)
	}
	r.clean()
}

// compareSent compares what the backend received with what the naive table expects. A flow that
// ended and started again has had several sockets, in this order.
func (r *rig) compareSent(n *naive) {
	r.Helper()
	got := map[string][]string{}
	for _, s := range r.sockets[1:] {
		name, _, _ := strings.Cut(s.sent[0].data, "|")
		for _, text := range texts(s.sent) {
			if !strings.HasPrefix(text, name+"|") {
				r.Errorf("the socket of %s got %q", name, text)
			}
		}
		got[name] = append(got[name], texts(s.sent)...)
	}
	for name, want := range n.sent {
		if !slices.Equal(got[name], want) {
			r.Errorf("%s: forwarded %q, want %q", name, got[name], want)
		}
	}
}

// A flow's number does not find a later flow that reuses its slot.
func TestStaleFlowNumberFindsNoFlow(t *testing.T) {
	table, l := newTable(), &lruList{}
	f := table.add(key{listener: 1}, l)
	index, generation := f.index, f.generation
	if table.at(index, generation) != f {
		t.Fatal("a flow is not found by its number")
	}
	table.remove(f)
	if table.at(index, generation) != nil {
		t.Error("an ended flow is found by its number")
	}
	for range 64 {
		table.add(key{listener: 2, peer: end{port: uint16(len(table.byKey))}}, l)
		if table.at(index, generation) != nil {
			t.Fatal("a stale number finds a new flow")
		}
	}
	if table.at(1<<20, 0) != nil {
		t.Error("an unassigned number finds a flow")
	}
}

// A late event of a closed socket has no effect.
func TestLateEventsAreIgnored(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a+"one")
	s := r.back()
	key := r.hosts[0].watched[s.fd]
	r.pass(time.Minute + time.Second)
	r.ended(1, record.OK, record.Timeout)
	r.worker().Event(key, 1)
	r.from(lb, b+"two")
	r.worker().Event(key, 1)
	r.back().took(t, "two")
}
