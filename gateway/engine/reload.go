package engine

import "unproxy/gateway/record"

// Resolve looks up the backends' names now, without waiting for the results.
func (e *Engine) Resolve() { e.names.refreshAll() }

// Recheck makes every loop check, for forwards with [forward.Forward.CutUntrusted], whether the
// peers of existing connections are still trusted. Call it after [forward.Forward.Trust] has
// changed. It does not wait.
func (e *Engine) Recheck() {
	for _, f := range e.forwards {
		if f.CutUntrusted {
			e.onLoops((*loop).recheck)
			return
		}
	}
}

// recheck resets the connections of peers that are no longer trusted.
func (l *loop) recheck() {
	for s := range l.sessions.live() {
		f := s.listener.forward
		if f.CutUntrusted && s.dependsOnTrust() && !f.Trust.Contains(s.peer.unpack().Addr()) {
			s.endedBy = record.Gateway
			s.setReason("peer is no longer trusted")
			s.refuse(l, record.Untrusted, s.phase())
		}
	}
}

// dependsOnTrust reports whether the session relies on the trust in its peer: it has read a header
// or waits for one. A session on a unix socket relies on the socket's mode. An untrusted peer that
// was passed, or a health check, relies on nothing.
func (s *session) dependsOnTrust() bool {
	return s.peer.isValid() && (s.headers > 0 || s.state == reading)
}
