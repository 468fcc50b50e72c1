package engine

import (
	"sync/atomic"
	"time"

	"unproxy/gateway/record"
)

// minSilence is how long a connection may be silent before it can be evicted: its header may be on
// its way. Meanwhile new connections wait in the kernel's queue.
const minSilence = 100 * time.Millisecond

// waitQueue holds the sessions of a loop that wait for their header. They have their own limit, so
// that peers that connect and send nothing cannot use up the limit for all connections. At the
// limit the session that has been silent longest is reset rather than the new one: the header of a
// load balancer comes with its first packet, so a session that has been silent long will probably
// never send one. What its socket holds is read first, and counts.
type waitQueue struct {
	limit int // for this loop; 0: none
	// count includes the connections in the loop's mailbox. Any loop adds to it, and only its own
	// subtracts.
	count atomic.Int64
	// list is in order of silence, from head on. Entries of sessions that no longer wait, or have sent
	// something since, stay in it until it is compacted, because a session has no room for list links.
	// Its length is at most twice the number of waiting sessions plus a constant.
	list    []waiter
	head    int
	blocked bool  // a listener is ignored until the loop is within the limit
	timer   timer // while the loop is above the limit: ends the minSilence of the first waiter
}

// waiter is a session that waits for its header. The entry is obsolete if session.lastActive is
// later than heard.
type waiter struct {
	sessionRef
	heard int64
}

// hasRoom reports whether a session may be added.
func (w *waitQueue) hasRoom() bool { return w.limit == 0 || w.count.Load() < int64(w.limit) }

// isOver reports whether there are more sessions than the limit allows.
func (w *waitQueue) isOver() bool { return w.limit > 0 && w.count.Load() > int64(w.limit) }

// awaitsHeader reports whether the session waits for its header.
func (s *session) awaitsHeader() bool { return s.state == reading && s.headerAt == 0 }

// addWaiting adds s to the list. It has been counted when it was accepted.
func (l *loop) addWaiting(s *session) {
	w := &l.waiting
	if w.limit == 0 {
		return
	}
	if len(w.list) > 2*int(w.count.Load())+64 {
		l.compactWaiting()
	}
	w.list = append(w.list, waiter{s.ref(), s.lastActive})
}

// heardWaiting moves s to the end of the list, because a part of its header has arrived.
func (l *loop) heardWaiting(s *session) {
	if s.lastActive != l.now {
		s.lastActive = l.now
		l.addWaiting(s)
	}
}

// removeWaiting counts a session that no longer waits.
func (l *loop) removeWaiting() {
	w := &l.waiting
	if w.count.Add(-1); w.isOver() {
		return
	}
	l.wheel.disarm(&w.timer)
	if w.blocked {
		w.blocked = false
		l.watchListeners()
	}
}

// waitingSession returns the session of an entry, nil if the entry is obsolete.
func (l *loop) waitingSession(w waiter) *session {
	if s := l.sessions.find(w.sessionRef); s != nil && s.awaitsHeader() && s.lastActive == w.heard {
		return s
	}
	return nil
}

// mayAccept reports whether a loop may take one more connection that waits for its header. If not,
// this loop ignores the listener until it may itself.
//
// A loop takes one connection more than its limit and reads from it at once, because the header may
// be there.
func (l *loop) mayAccept(ln *listener) bool {
	if !l.waiting.isOver() {
		return true
	}
	for _, other := range l.engine.loops {
		if other.waiting.hasRoom() {
			return true
		}
	}
	l.waiting.blocked = true
	l.unwatchListener(ln)
	return false
}

// makeRoom brings the loop within its limit. It reads from the session that has been silent longest.
// If the header is there, that makes room. Otherwise the session is reset, unless it is younger
// than patience: then a timer runs makeRoom again as soon as the session is old enough.
func (l *loop) makeRoom(patience time.Duration) {
	for l.waiting.isOver() {
		s := l.longestSilent()
		if s == nil {
			return // the connections are in the mailbox, which is read soon
		}
		s.readWaiting(l)
		if l.longestSilent() != s {
			continue
		}
		if due := s.acceptedAt + int64(patience); due > l.now {
			l.wheel.arm(&l.waiting.timer, due)
			return
		}
		s.evict(l)
	}
}

// readWaiting reads the header before an event has announced it.
func (s *session) readWaiting(l *loop) {
	s.sides[peer].readable = true
	s.readHeader(l)
}

// longestSilent returns the first session of the list, nil if there is none.
func (l *loop) longestSilent() *session {
	for w := &l.waiting; w.head < len(w.list); w.head++ {
		if s := l.waitingSession(w.list[w.head]); s != nil {
			return s
		}
	}
	return nil
}

// evict resets a session that waits for its header.
func (s *session) evict(l *loop) {
	s.setSample(s.sides[peer].held)
	s.endedBy = record.Gateway
	s.setReason("too many connections wait for their header; this one was silent longest")
	s.refuse(l, record.Limit, record.Header)
}

// compactWaiting removes sessions that no longer wait from the list.
func (l *loop) compactWaiting() {
	w := &l.waiting
	kept := w.list[:0]
	for _, entry := range w.list[w.head:] {
		if l.waitingSession(entry) != nil {
			kept = append(kept, entry)
		}
	}
	w.list, w.head = kept, 0
}
