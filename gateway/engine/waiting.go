package engine

import (
	"sync/atomic"

	"unproxy/gateway/record"
)

// waiting is a loop's sessions that wait for their header. They are bounded
// apart from all others: whoever opens connections and says nothing must not
// keep those out that have something to say. At the limit the one that has
// waited longest gives way, not the newcomer: a load balancer's header comes
// with its first packet, and what is left waiting is what does not mean to speak.
type waitQueue struct {
	limit int          // of the loop; 0 is none
	count atomic.Int64 // written by the loop alone
	// queue is in the order of arrival, from head on. Those that wait no more
	// stay in it until they are come upon: there is no room in a session for
	// a place in a list. It is no longer than twice those that wait, and a bit.
	refs []sessionRef
	head int
}

// awaits says that the session waits for its header.
func (s *session) awaitsHeader() bool { return s.state == reading && s.headerAt == 0 }

// await notes that s waits for its header, and has another one give way if
// there are too many.
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

// awaited notes that a session waits no more.
func (l *loop) removeWaiting() { l.waiting.count.Add(-1) }

// stillWaits returns the session of a ticket if it waits; else nil.
func (l *loop) waitingSession(t sessionRef) *session {
	if s := l.sessions.find(t); s != nil && s.awaitsHeader() {
		return s
	}
	return nil
}

// giveWay resets the session that has waited longest.
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

// tidyWaiting takes those out of the queue that wait no more.
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
