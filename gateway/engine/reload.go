package engine

import "unproxy/gateway/record"

// Resolve has the backends' names looked up now and not when their time comes.
// It does not wait for the answers.
func (e *Engine) Resolve() { e.names.refreshAll() }

// Recheck has every loop look whether the peers that it believed are still
// trusted, where [Forward.CutUntrusted] says so; it is to follow a change of
// what [Forward.Trust] holds. It does not wait.
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
		if s.listener.forward.CutUntrusted && s.dependsOnTrust() && !s.listener.forward.Trust.Contains(s.peer.unpack().Addr()) {
			s.endedBy = record.Gateway
			s.setReason("peer is no longer trusted")
			s.refuse(l, record.Untrusted, s.phase())
		}
	}
}

// believed says that the session rests on the trust in its peer: a header was
// read, or is waited for. On a unix socket it rests on the socket's mode, and
// that of a client which was passed, or of a health check, on nothing.
func (s *session) dependsOnTrust() bool {
	return s.peer.isValid() && (s.headers > 0 || s.state == reading)
}
