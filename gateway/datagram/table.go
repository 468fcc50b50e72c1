package datagram

import (
	"math/rand/v2"
	"net/netip"
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// key tells flows apart. Nothing in it is a pointer, so that a map hashes it at
// one go.
type key struct {
	listener                  uint32
	peer, client, destination end
}

// end is an address and port; the zero value is none.
type end struct {
	addr [16]byte // IPv4 as 4-in-6
	port uint16
}

func endOf(a netip.AddrPort) end {
	if !a.IsValid() {
		return end{}
	}
	return end{a.Addr().As16(), a.Port()}
}

// flow is one client's datagrams through one of the peer's sockets, and the
// replies to them.
type flow struct {
	next, prev *flow // in the order of silence
	lane       *lane
	front      *front
	key        key

	fd     int
	reply  address // of the peer, and where it sent to
	spp    [SPPLength]byte
	header []byte // what goes before a reply: spp, or nothing

	began, alive, heard   int64 // when it began, when a datagram came either way, when one came from the peer
	packetsIn, packetsOut int64
	bytesIn, bytesOut     int64
	peer                  netip.AddrPort
	client, destination   netip.AddrPort // as a header names them; invalid in the peer's own flow
	backend               forward.Endpoint
	source                netip.AddrPort // spoken from, where transparent
	id                    uint64
	details               *record.Details
	index, generation     uint32
	failure               syscall.Errno // that the backend's side reported last, if nothing came since
	version               uint8
	want                  uint8  // replies to read at once
	run                   uint16 // that the sorter has of it, from 1; 0 is none
	attempt               uint8  // of several backends
	alternatives          bool   // there are several
	refused               bool   // the backend is to be given up: the worker has a ticket
	spoof                 bool   // the backend is to see the client's address
	counted               bool   // against the client's limit
	claimed               bool   // the source is this flow's alone
	bulk                  bool
	noTrains              bool // the kernel does not cut trains apart on this way
}

// table holds the flows of one loop: by their keys, and by their numbers for
// the events of their sockets. A flow that was removed is used again.
type table struct {
	byKey map[key]*flow
	flows []*flow
	free  []uint32
}

func newTable() table { return table{byKey: map[key]*flow{}} }

// find returns the flow of a key, nil if there is none.
func (t *table) find(k key) *flow { return t.byKey[k] }

// at returns the flow of a number, nil if that has ended.
func (t *table) at(index, generation uint32) *flow {
	if int(index) >= len(t.flows) {
		return nil
	}
	if f := t.flows[index]; f.generation == generation && f.lane != nil {
		return f
	}
	return nil
}

// add makes a flow of a key that has none, the last of its lane to fall silent.
func (t *table) add(k key, l *lane) *flow {
	if len(t.free) == 0 {
		t.grow()
	}
	last := len(t.free) - 1
	f := t.flows[t.free[last]]
	t.free = t.free[:last]
	*f = flow{index: f.index, generation: f.generation, key: k, lane: l, fd: -1, want: 1}
	l.append(f)
	t.byKey[k] = f
	return f
}

// remove takes a flow out.
func (t *table) remove(f *flow) {
	delete(t.byKey, f.key)
	f.lane.remove(f)
	f.lane = nil
	f.generation++
	t.free = append(t.free, f.index)
}

// grow makes room for more flows, a block at a time, so that they lie side by side.
func (t *table) grow() {
	block := make([]flow, 64)
	for i := range block {
		block[i].index, block[i].generation = uint32(len(t.flows)), rand.Uint32()
		t.flows = append(t.flows, &block[i])
		t.free = append(t.free, block[i].index)
	}
}

// lane is a forward's flows on one loop, in the order in which they fell silent.
type lane struct {
	*forwardState
	tally       *record.Tally
	first, last *flow
}

// touch makes f the last to have fallen silent.
func (l *lane) touch(f *flow) {
	if l.last == f {
		return
	}
	l.remove(f)
	l.append(f)
}

func (l *lane) append(f *flow) {
	f.prev, f.next = l.last, nil
	if l.last != nil {
		l.last.next = f
	} else {
		l.first = f
	}
	l.last = f
}

func (l *lane) remove(f *flow) {
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
