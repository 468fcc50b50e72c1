package engine

import (
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// refuse ends a session and resets both sides.
func (s *session) refuse(l *loop, outcome record.Outcome, phase record.Phase) {
	s.resetSide(l, peer)
	s.resetSide(l, backend)
	s.end(l, outcome, phase)
}

// end ends a session and closes both sides with a FIN.
func (s *session) end(l *loop, outcome record.Outcome, phase record.Phase) {
	s.outcome, s.endPhase = outcome, phase
	s.finish(l)
}

// finish closes the open sockets, reports the connection and returns the session to the pool.
func (s *session) finish(l *loop) {
	if s.awaitsHeader() {
		l.removeWaiting()
	}
	l.wheel.disarm(&s.timer)
	l.flows.release(s)
	for i := range s.sides {
		s.closeSide(l, i)
	}
	if s.clientCounted {
		s.listener.forward.clients.Leave(s.client.unpack().Addr())
	}
	s.tally.End(s.command, s.outcome, s.endPhase, s.duration(l))
	s.report(l)
	l.retire(s)
}

// duration is the time since accept. The loop's clock stands still while it handles a batch of
// events, but headerAt and connectedAt are read from the kernel's.
func (s *session) duration(l *loop) time.Duration {
	return time.Duration(max(l.now, s.acceptedAt, s.headerAt, s.connectedAt) - s.acceptedAt)
}

// report passes the record of a finished session to Config.Report.
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
		Transparent: s.isTransparent(),
		TOA:         s.option > noOption,
		Version:     s.version,
		Command:     s.command,
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

		AnswersOthers: s.failureDetails().answersOthers,
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

// failure describes what went wrong with a connection, for its record.
type failure struct {
	reason string
	sample string // the first bytes of the header
	offset int    // after how many bytes of the header it was rejected

	answersOthers bool // record.Connection.AnswersOthers
	local         bool // the last attempt to connect failed in a call that does not involve the backend

	tried []forward.Endpoint // backends that could not be connected to
	// began and ended are the times of the last of these attempts, on the kernel's clock.
	began, ended int64
}

// ensureFailure returns the session's failure and allocates it if needed.
func (s *session) ensureFailure() *failure {
	if s.failure == nil {
		s.failure = new(failure)
	}
	return s.failure
}

// setReason records why a session ends, or what failed last.
func (s *session) setReason(reason string) { s.ensureFailure().reason = reason }

// setSample keeps the first bytes of a rejected header.
func (s *session) setSample(b []byte) {
	s.ensureFailure().sample = string(b[:min(len(b), record.MaxSample)])
}

// setPartial keeps the first bytes of a header that is not complete, and how many of its bytes arrived.
func (s *session) setPartial(b []byte) {
	s.setSample(b)
	s.ensureFailure().offset = len(b)
}

// failureDetails returns the session's failure, or the zero value.
func (s *session) failureDetails() failure {
	if s.failure == nil {
		return failure{}
	}
	return *s.failure
}

// resetSide closes one side with a RST.
func (s *session) resetSide(l *loop, i int) {
	d := &s.sides[i]
	if d.fd >= 0 {
		l.kernel.Reset(int(d.fd))
		d.fd = -1
	}
}

// closeSide closes one side with a FIN, if it is open, and releases its buffer and pipe.
func (s *session) closeSide(l *loop, i int) {
	d := &s.sides[i]
	if d.fd >= 0 {
		l.kernel.Close(int(d.fd))
		d.fd = -1
	}
	l.release(d)
	if d.pipe != nil {
		l.pipes.put(d.pipe)
		d.pipe = nil
	}
}
