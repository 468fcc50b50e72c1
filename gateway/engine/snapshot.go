package engine

import (
	"context"
	"net/netip"
	"time"

	"unproxy/gateway/forward"
)

// snapshotStep is the number of sessions that a loop visits before it continues with its work. To
// describe them takes some five microseconds.
const snapshotStep = 256

// snapshotBatch is the number of connections described before they are passed to the caller. It
// bounds the memory of a query.
const snapshotBatch = 1024

// Session is a snapshot of an open connection.
type Session struct {
	// ID is unique among the connections of this process.
	ID uint64
	// Forward is the label of its forward, Listener the name of its listener.
	Forward, Listener string
	// Peer is invalid on a unix socket. Client and Destination are invalid until a header has named
	// them.
	Peer, Client, Destination netip.AddrPort
	// Backend is the one that was dialled last, the zero value if none was.
	Backend forward.Endpoint
	// Transparent means that the backend sees the client's address.
	Transparent bool
	// TOA means that its address is sent in a TCP option.
	TOA bool
	// Version is the header's version, 1 or 2; 0 if there is none.
	Version uint8
	// Authority is the host name that the client requested, from the header. The client chooses it,
	// and it may contain any byte.
	Authority string
	// State is what the connection waits for: "header", "closing", "dialling", "diagnosing" or
	// "relaying".
	State string
	// BytesIn counts bytes from client to backend, BytesOut those in the other direction.
	BytesIn, BytesOut int64
	// Blocked is the side that does not take what the other one has sent: "client", "backend" or
	// "both"; "" if there is none.
	Blocked string
	// HalfClosed is the side that has ended its stream while the other one continues: "client" or
	// "backend"; "" if there is none.
	HalfClosed string
	// Buffered is the memory, in bytes, for what was read and not yet taken by the other side, Piped
	// what waits in a pipe.
	Buffered, Piped int64
	// Age is the time since accept, Idle since the last event of its sockets.
	Age, Idle time.Duration
}

func (s *session) describe(to *Session, now int64) {
	*to = Session{
		ID:          s.id,
		Forward:     s.listener.forward.Label(),
		Listener:    s.listener.Name,
		Peer:        s.peer.unpack(),
		Client:      s.client.unpack(),
		Destination: s.destination.unpack(),
		Backend:     s.backend,
		Transparent: s.isTransparent(),
		TOA:         s.option > noOption,
		Version:     s.version,
		State:       s.state.String(),
		BytesIn:     s.sides[peer].bytes,
		BytesOut:    s.sides[backend].bytes,
		Blocked:     s.blockedSide(),
		HalfClosed:  s.halfClosedSide(),
		Age:         time.Duration(now - s.acceptedAt),
		Idle:        time.Duration(now - s.lastActive),
	}
	to.Buffered, to.Piped = s.buffered()
	if s.details != nil {
		to.Authority = s.details.Authority
	}
}

// EachSession calls visit for each open connection, on the caller's goroutine. The argument is
// valid until the next call. The loops are queried in steps and work in between, so it may miss a
// connection that opens or report one that closes meanwhile. The error is the cause of ctx.
func (e *Engine) EachSession(ctx context.Context, visit func(*Session)) error {
	var batch []Session
	for _, l := range e.loops {
		for at, more := 0, true; more; {
			batch = batch[:0]
			if err := e.askLoops(ctx, []*loop{l}, func(l *loop) bool {
				batch, more = l.snapshots(batch, &at)
				return more && len(batch) < snapshotBatch
			}); err != nil {
				return err
			}
			for i := range batch {
				visit(&batch[i])
			}
		}
	}
	return nil
}

// step calls visit for the open sessions among the next snapshotStep ones, from index at on, and
// advances at. more reports whether there are others after them.
func (l *loop) step(at *int, visit func(*session)) (more bool) {
	for s := range l.sessions.from(*at, snapshotStep) {
		if s.state != free {
			visit(s)
		}
	}
	*at += snapshotStep
	return *at < l.sessions.len()
}

// snapshots appends the open connections of one step.
func (l *loop) snapshots(all []Session, at *int) (_ []Session, more bool) {
	now := l.kernel.Now() // the loop's own time may be older than a session that was just passed to it
	more = l.step(at, func(s *session) {
		all = append(all, Session{})
		s.describe(&all[len(all)-1], now)
	})
	return all, more
}

// Reset resets both sides of the connection with an id, on behalf of the operator. found is false
// if no such connection is open. The error is the cause of ctx.
func (e *Engine) Reset(ctx context.Context, id uint64) (found bool, err error) {
	at := 0
	of := e.loops[id%uint64(len(e.loops))] // see nextID
	err = e.askLoops(ctx, []*loop{of}, func(l *loop) bool {
		more := l.step(&at, func(s *session) {
			if s.id == id {
				s.resetByOperator(l)
				found = true
			}
		})
		return more && !found
	})
	if err != nil {
		return false, err
	}
	return found, nil
}
