package engine

import (
	"time"

	"unproxy/gateway/record"
)

// sampleSize is how much of a refused header is kept for the log.
const sampleSize = 32

// refuse ends a session with RSTs on both sides.
func (s *session) refuse(l *loop, outcome record.Outcome, phase record.Phase) {
	s.resetSide(l, peer)
	s.resetSide(l, backend)
	s.end(l, outcome, phase)
}

// end ends a session with FINs.
func (s *session) end(l *loop, outcome record.Outcome, phase record.Phase) {
	s.outcome, s.endPhase = outcome, phase
	s.finish(l)
}

// finish closes what is open, reports the connection and gives the session back.
func (s *session) finish(l *loop) {
	if s.awaitsHeader() {
		l.removeWaiting()
	}
	l.wheel.disarm(&s.timer)
	for i := range s.sides {
		s.closeSide(l, i)
	}
	if s.clientCounted {
		s.listener.forward.clients.Leave(s.client.unpack().Addr())
	}
	s.tally.End(s.outcome, s.endPhase, s.duration(l))
	s.report(l)
	l.release(s)
}

// lasted is the time since accept. The loop's clock stands still while it
// serves a batch of events; the two others are read anew.
func (s *session) duration(l *loop) time.Duration {
	return time.Duration(max(l.now, s.headerAt, s.connectedAt) - s.acceptedAt)
}

// tell reports a finished session.
func (s *session) report(l *loop) {
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
		Outcome:     s.outcome,
		Phase:       s.endPhase,
		By:          s.endedBy,
		Reason:      s.failureDetails().reason,
		Offset:      s.failureDetails().offset,
		Sample:      s.failureDetails().sample,
		BytesIn:     s.sides[peer].bytes,
		BytesOut:    s.sides[backend].bytes,
		Duration:    s.duration(l),
		Details:     s.details,
	}
	if s.source.isValid() && s.source != s.client {
		r.Source = s.source.unpack()
	}
	if s.headerAt != 0 {
		r.HeaderTime = time.Duration(s.headerAt - s.acceptedAt)
	}
	if s.connectedAt != 0 {
		r.ConnectTime = time.Duration(s.connectedAt - s.headerAt)
	}
	l.engine.config.Report(r)
}

// refusal is what is told of a connection that did not end well.
type failure struct {
	reason string
	sample string // the beginning of the header
	offset int    // of what is wrong with it
}

// explain returns the session's refusal, which it makes if there is none yet.
func (s *session) ensureFailure() *failure {
	if s.failure == nil {
		s.failure = new(failure)
	}
	return s.failure
}

// because notes why a session ends, or what went wrong last.
func (s *session) setReason(reason string) { s.ensureFailure().reason = reason }

// sample keeps the beginning of a refused header for the log.
func (s *session) setSample(b []byte) { s.ensureFailure().sample = string(b[:min(len(b), sampleSize)]) }

func (s *session) failureDetails() failure {
	if s.failure == nil {
		return failure{}
	}
	return *s.failure
}

// reset closes a side with a RST.
func (s *session) resetSide(l *loop, i int) {
	d := &s.sides[i]
	if d.fd >= 0 {
		l.kernel.Reset(int(d.fd))
		d.fd = -1
	}
}

// drop closes a side, with a FIN where it was not closed yet, and gives back
// what it held.
func (s *session) closeSide(l *loop, i int) {
	d := &s.sides[i]
	if d.fd >= 0 {
		l.kernel.Close(int(d.fd))
		d.fd = -1
	}
	s.releaseHeld(l, d)
	if d.pipe != nil {
		l.pipes.put(d.pipe)
		d.pipe = nil
	}
}
