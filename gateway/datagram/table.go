package datagram

import (
	"math/rand/v2"
	"net/netip"
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/gateway/source"
)

// key identifies a flow. It contains no pointer, so a map hashes it in one step.
type key struct {
	listener                  uint32
	peer, client, destination end
}

// end is an address and port; the zero value is no address.
type end struct {
	addr [16]byte // IPv4 as IPv4-mapped
	port uint16
}

func endOf(a netip.AddrPort) end {
	if !a.IsValid() {
		return end{}
	}
	return end{a.Addr().As16(), a.Port()}
}

// flow is the datagrams of one client through one socket of the peer, and the
// replies to them.
type flow struct {
	next, prev *flow // in the order of last activity
	newer      *flow // in unproven
	older      *flow
	list       *lruList
	listener   *listenerSocket
	key        key

	fd          int
	reply       address // the peer, and the address that it sent to
	spp         [SPPLength]byte
	replyHeader []byte // precedes each reply: spp, or nothing

	startedAt, lastActive, lastReceived int64 // lastActive: either direction; lastReceived: from the peer
	packetsIn, packetsOut               int64
	bytesIn, bytesOut                   int64
	peer                                netip.AddrPort
	client, destination                 netip.AddrPort // as named by a header; invalid in the peer's own flow
	backend                             forward.Endpoint
	source                              netip.AddrPort // of the socket; invalid if the kernel chooses
	id                                  uint64
	details                             *record.Details
	index, generation                   uint32
	lastError                           syscall.Errno // reported last, if no reply arrived since
	broken                              syscall.Errno // of its socket, by a fault of the host
	version                             uint8
	command                             record.Command
	expected                            uint8  // number of replies to read at once
	run                                 uint16 // its run in the sorter, from 1; 0 is none
	attempt                             uint8  // index of the backend
	alternatives                        bool   // there are several backends
	failing                             bool   // must fail over, or is broken: it is in worker.failing
	spoof                               bool   // the backend sees the client's address
	counted                             bool   // against the client's limit
	claimed                             bool   // has a claim on its source
	bulk                                bool
	noGSO                               bool // the kernel refused GSO on this path
	isUnproven                          bool // in lruList.unproven
}

// table holds the flows of one loop: by key for datagrams, and by number for the
// events of their sockets. Removed flows are reused.
type table struct {
	byKey map[key]*flow
	flows []*flow
	free  []uint32
}

func newTable() table { return table{byKey: map[key]*flow{}} }

// find returns the flow with a key, or nil.
func (t *table) find(k key) *flow { return t.byKey[k] }

// at returns the flow with a number, or nil if it has ended.
func (t *table) at(index, generation uint32) *flow {
	if int(index) >= len(t.flows) {
		return nil
	}
	if f := t.flows[index]; f.generation == generation && f.list != nil {
		return f
	}
	return nil
}

// add creates a flow for an unused key, as the most recently active one of its
// list.
func (t *table) add(k key, l *lruList) *flow {
	if len(t.free) == 0 {
		t.grow()
	}
	last := len(t.free) - 1
	f := t.flows[t.free[last]]
	t.free = t.free[:last]
	*f = flow{index: f.index, generation: f.generation, key: k, list: l, fd: -1, expected: 1}
	l.append(f)
	l.unproven.add(f)
	t.byKey[k] = f
	return f
}

// remove removes a flow.
func (t *table) remove(f *flow) {
	delete(t.byKey, f.key)
	f.list.remove(f)
	f.list.unproven.remove(f)
	f.list = nil
	f.generation++
	t.free = append(t.free, f.index)
	if len(t.byKey) == 0 && len(t.flows) > mostIdleFlows {
		*t = newTable() // gives the memory of a burst back
	}
}

// mostIdleFlows is the number of removed flows that a table keeps when it has become empty.
const mostIdleFlows = 1024

// grow allocates flows in blocks, for locality.
func (t *table) grow() {
	block := make([]flow, 64)
	for i := range block {
		block[i].index, block[i].generation = uint32(len(t.flows)), rand.Uint32()
		t.flows = append(t.flows, &block[i])
		t.free = append(t.free, block[i].index)
	}
}

// lruList is the flows of one forward on one loop, least recently active first.
type lruList struct {
	*forwardState
	tally       *record.Tally
	sources     *source.Pool
	first, last *flow
	unproven    unproven
}

// touch makes f the most recently active flow.
func (l *lruList) touch(f *flow) {
	if l.last == f {
		return
	}
	l.remove(f)
	l.append(f)
}

func (l *lruList) append(f *flow) {
	f.prev, f.next = l.last, nil
	if l.last != nil {
		l.last.next = f
	} else {
		l.first = f
	}
	l.last = f
}

func (l *lruList) remove(f *flow) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		l.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		l.last = f.prev
	}
	f.next, f.prev = nil, nil
}
