package engine

import (
	"context"
	"net/netip"

	"unproxy/gateway/record"
)

// CutClients resets the connections of the clients for which match returns true, and returns how
// many. The loops run match. Connections without a client of their own stay: those that wait for
// their header, and those whose header is LOCAL or names none. The error is the cause of ctx; some
// connections may have been reset.
func (e *Engine) CutClients(ctx context.Context, match func(netip.Addr) bool) (cut int, err error) {
	for _, l := range e.loops {
		at, n := 0, 0
		err := e.askLoops(ctx, []*loop{l}, func(l *loop) (more bool) {
			return l.step(&at, func(s *session) {
				if s.hasClient() && match(s.client.unpack().Addr()) {
					s.cutBanned(l)
					n++
				}
			})
		})
		if err != nil {
			return cut, err
		}
		cut += n
	}
	return cut, nil
}

// hasClient reports whether an open session serves a client whose address is known.
func (s *session) hasClient() bool {
	return s.client.isValid() && s.command != record.CommandLocal && s.command != record.CommandUnknown
}

func (s *session) cutBanned(l *loop) {
	s.endedBy = record.Gateway
	s.setReason("the client was banned")
	s.refuse(l, record.ClientDenied, s.phase())
}
