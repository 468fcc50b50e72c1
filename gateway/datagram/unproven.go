package datagram

import "time"

// unproven is the flows of an lruList that have sent one datagram and got no reply, the oldest
// first. Datagrams with forged sources make such flows; those of real clients leave the list with
// the first reply, or when they repeat the datagram.
type unproven struct {
	oldest, newest *flow
	count          int
}

// add adds a new flow.
func (u *unproven) add(f *flow) {
	f.isUnproven = true
	f.older, f.newer = u.newest, nil
	if u.newest != nil {
		u.newest.newer = f
	} else {
		u.oldest = f
	}
	u.newest = f
	u.count++
}

// remove removes a flow, if it is in the list.
func (u *unproven) remove(f *flow) {
	if !f.isUnproven {
		return
	}
	f.isUnproven = false
	if f.older != nil {
		f.older.newer = f.newer
	} else {
		u.oldest = f.newer
	}
	if f.newer != nil {
		f.newer.older = f.older
	} else {
		u.newest = f.older
	}
	f.older, f.newer = nil, nil
	u.count--
}

// prove removes a flow from the unproven ones if it has exchanged more than one datagram.
func (f *flow) prove() {
	if f.isUnproven && f.packetsIn+f.packetsOut > 1 {
		f.list.unproven.remove(f)
	}
}

const (
	// answerTime is how long an unproven flow is spared while there are few: an answer may be on
	// its way.
	answerTime = int64(time.Second)
	// unprovenShare is the part of the flows that unproven ones may be to be spared: a quarter.
	unprovenShare = 4
)

// firstOf returns the oldest flow that may be evicted, nil if none of the first ones may.
func (u *unproven) firstOf(mayEvict func(*flow) bool) *flow {
	f := u.oldest
	for range mostExamined {
		if f == nil || mayEvict(f) {
			return f
		}
		f = f.newer
	}
	return nil
}

// evictable returns the flow of a forward, or of all forwards if of is nil, that is the next to
// make room, of those that may be evicted: the oldest unproven one, so that forged datagrams evict
// each other rather than the flows of clients. While unproven flows are few, each has answerTime to
// get an answer; then the least recently active flow goes.
func (w *worker) evictable(of *forwardState, mayEvict func(*flow) bool) *flow {
	var oldest *flow
	unproven, total := 0, 0
	for _, l := range w.lists {
		if of != nil && l.forwardState != of {
			continue
		}
		unproven += l.unproven.count
		total += int(l.flows[w.host.Index()].Load())
		f := l.unproven.firstOf(mayEvict)
		if f != nil && (oldest == nil || f.startedAt < oldest.startedAt) {
			oldest = f
		}
	}
	isSpared := oldest != nil && w.host.Now()-oldest.startedAt < answerTime && unproven*unprovenShare < total
	if isSpared || oldest == nil {
		return w.oldest(of, mayEvict)
	}
	return oldest
}
