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
type waiting struct {
	limit int          // of the loop; 0 is none
	count atomic.Int64 // written by the loop alone
	// queue is in the order of arrival, from head on. Those that wait no more
	// stay in it until they are come upon: there is no room in a session for
	// a place in a list. It is no longer than twice those that wait, and a bit.
	queue []ticket
	head  int
}

// awaits says that the session waits for its header.
func (s *session) awaits() bool { return s.state == reading && s.headed == 0 }

// await notes that s waits for its header, and has another one give way if
// there are too many.
func (l *loop) await(s *session) {
	w := &l.waiting
	count := w.count.Add(1)
	if w.limit == 0 {
		return
	}
	if len(w.queue) > 2*int(count)+64 {
		l.tidyWaiting()
	}
	w.queue = append(w.queue, s.ticket())
	if int(count) > w.limit {
		l.giveWay()
	}
}

// awaited notes that a session waits no more.
func (l *loop) awaited() { l.waiting.count.Add(-1) }

// stillWaits returns the session of a ticket if it waits; else nil.
func (l *loop) stillWaits(t ticket) *session {
	if s := l.sessions.find(t); s != nil && s.awaits() {
		return s
	}
	return nil
}

// giveWay resets the session that has waited longest.
func (l *loop) giveWay() {
	w := &l.waiting
	for w.head < len(w.queue) {
		s := l.stillWaits(w.queue[w.head])
		w.head++
		if s == nil {
			continue
		}
		s.sample(s.sides[peer].held)
		s.failedBy = record.Gateway
		s.because("too many connections wait for their header, and this one the longest")
		s.refuse(l, record.Limit, record.Header)
		return
	}
}

// tidyWaiting takes those out of the queue that wait no more.
func (l *loop) tidyWaiting() {
	w := &l.waiting
	kept := w.queue[:0]
	for _, t := range w.queue[w.head:] {
		if l.stillWaits(t) != nil {
			kept = append(kept, t)
		}
	}
	w.queue, w.head = kept, 0
}
