package engine

import (
	"sync/atomic"

	"unproxy/gateway/record"
)

// waitQueue holds the sessions of a loop that wait for their header. They have their own limit, so
// that peers that connect and send nothing cannot use up the limit for all connections. At the
// limit the session that has waited longest is reset rather than the new one: the header of a load
// balancer comes with its first packet, so a session that has waited long will probably never send
// one.
type waitQueue struct {
	limit int          // for this loop; 0: none
	count atomic.Int64 // written only by the loop
	// refs is in order of arrival, from head on. Sessions that no longer wait stay in it until it
	// is compacted, because a session has no room for list links. Its length is at most twice the
	// number of waiting sessions plus a constant.
	refs []sessionRef
	head int
}

// awaitsHeader reports whether the session waits for its header.
func (s *session) awaitsHeader() bool { return s.state == reading && s.headerAt == 0 }

// addWaiting adds s to the waiting sessions. At the limit it evicts the oldest.
func (l *loop) addWaiting(s *session) {
	w := &l.waiting
	count := w.count.Add(1)
	if w.limit == 0 {
		return
	}
	if len(w.refs) > 2*int(count)+64 {
		l.compactWaiting()
	}
	w.refs = append(w.refs, s.ref())
	if int(count) > w.limit {
		l.evictOldest()
	}
}

// removeWaiting counts a session that no longer waits.
func (l *loop) removeWaiting() { l.waiting.count.Add(-1) }

// waitingSession returns the session of a reference if it waits, else nil.
func (l *loop) waitingSession(t sessionRef) *session {
	if s := l.sessions.find(t); s != nil && s.awaitsHeader() {
		return s
	}
	return nil
}

// evictOldest resets the session that has waited longest.
func (l *loop) evictOldest() {
	w := &l.waiting
	for w.head < len(w.refs) {
		s := l.waitingSession(w.refs[w.head])
		w.head++
		if s == nil {
			continue
		}
		s.setSample(s.sides[peer].held)
		s.endedBy = record.Gateway
		s.setReason("too many connections wait for their header; this one waited longest")
		s.refuse(l, record.Limit, record.Header)
		return
	}
}

// compactWaiting removes sessions that no longer wait from the queue.
func (l *loop) compactWaiting() {
	w := &l.waiting
	kept := w.refs[:0]
	for _, t := range w.refs[w.head:] {
		if l.waitingSession(t) != nil {
			kept = append(kept, t)
		}
	}
	w.refs, w.head = kept, 0
}
