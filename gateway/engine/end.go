package engine

import (
	"time"

	"unproxy/gateway/record"
)

// refuse ends a session with RSTs on both sides.
func (s *session) refuse(l *loop, outcome record.Outcome, phase record.Phase) {
	s.reset(l, peer)
	s.reset(l, backend)
	s.end(l, outcome, phase)
}

// end ends a session with FINs.
func (s *session) end(l *loop, outcome record.Outcome, phase record.Phase) {
	s.failure, s.ended = outcome, phase
	s.finish(l)
}

// finish closes what is open, reports the connection and gives the session back.
func (s *session) finish(l *loop) {
	if s.awaits() {
		l.awaited()
	}
	l.wheel.disarm(&s.timer)
	for i := range s.sides {
		s.drop(l, i)
	}
	if s.counted {
		s.listener.forward.clients.Leave(s.client.unpack().Addr())
	}
	s.count(l)
	s.tell(l)
	l.release(s)
}

// count counts a finished session.
func (s *session) count(l *loop) {
	s.tally.Ended(s.failure, s.ended, s.lasted(l))
}

// lasted is the time since accept. The loop's clock stands still while it
// serves a batch of events; the two others are read anew.
func (s *session) lasted(l *loop) time.Duration {
	return time.Duration(max(l.now, s.headed, s.joined) - s.began)
}

// tell reports a finished session.
func (s *session) tell(l *loop) {
	if l.engine.config.Report == nil {
		return
	}
	r := &l.report
	*r = record.Connection{
		ID:          s.id,
		Forward:     s.listener.Name,
		Peer:        s.peer.unpack(),
		Client:      s.client.unpack(),
		Destination: s.destination.unpack(),
		Backend:     s.backend.Addr,
		BackendPath: s.backend.Path,
		Transparent: s.source.isValid(),
		Version:     s.version,
		Outcome:     s.failure,
		Phase:       s.ended,
		By:          s.failedBy,
		Reason:      s.why().reason,
		Offset:      s.why().offset,
		Sample:      s.why().sample,
		BytesIn:     s.sides[peer].bytes,
		BytesOut:    s.sides[backend].bytes,
		Duration:    s.lasted(l),
		Details:     s.details,
	}
	if s.source.isValid() && s.source != s.client {
		r.Source = s.source.unpack()
	}
	if s.headed != 0 {
		r.HeaderTime = time.Duration(s.headed - s.began)
	}
	if s.joined != 0 {
		r.ConnectTime = time.Duration(s.joined - s.headed)
	}
	l.engine.config.Report(r)
}

// refusal is what is told of a connection that did not end well.
type refusal struct {
	reason string
	sample string // the beginning of the header
	offset int    // of what is wrong with it
}

// explain returns the session's refusal, which it makes if there is none yet.
func (s *session) explain() *refusal {
	if s.refusal == nil {
		s.refusal = new(refusal)
	}
	return s.refusal
}

// because notes why a session ends, or what went wrong last.
func (s *session) because(reason string) { s.explain().reason = reason }

// sample keeps the beginning of a refused header for the log.
func (s *session) sample(b []byte) { s.explain().sample = string(b[:min(len(b), record.MaxSample)]) }

func (s *session) why() refusal {
	if s.refusal == nil {
		return refusal{}
	}
	return *s.refusal
}

// reset closes a side with a RST.
func (s *session) reset(l *loop, i int) {
	d := &s.sides[i]
	if d.fd >= 0 {
		l.kernel.Reset(int(d.fd))
		d.fd = -1
	}
}

// drop closes a side, with a FIN where it was not closed yet, and gives back
// what it held.
func (s *session) drop(l *loop, i int) {
	d := &s.sides[i]
	if d.fd >= 0 {
		l.kernel.Close(int(d.fd))
		d.fd = -1
	}
	s.returnHeld(l, d)
	if d.pipe != nil {
		l.pipes.give(d.pipe)
		d.pipe = nil
	}
}
