package engine

import (
	"context"
	"net/netip"
	"time"

	"unproxy/gateway/forward"
)

// askStep is how many sessions a loop looks at for one question; then it goes
// on with its work and is asked again. Describing so many takes
// some five microseconds.
const snapshotStep = 256

// askBatch is how many connections are described before whoever asked looks at
// them: what bounds the memory that a question takes.
const snapshotBatch = 1024

// Session is a connection that goes on, as it was at one moment.
type Session struct {
	// ID is unique among the connections of this process.
	ID uint64
	// Forward is the label of its forward, Listener the name of its listener.
	Forward, Listener string
	// Peer is invalid on a unix socket. Client and Destination are invalid
	// until a header has named them.
	Peer, Client, Destination netip.AddrPort
	// Backend is the one that is dialled or was; the zero value before that.
	Backend forward.Endpoint
	// Transparent says that the backend sees the client's address.
	Transparent bool
	// Version is the header's, 1 or 2; 0 when none was read.
	Version uint8
	// Authority is the host name that the client asked for, as the header has
	// it; it is of the client's choice and may hold any byte.
	Authority string
	// State is what it waits for: "header", "closing", "dialling",
	// "diagnosing" or "relaying".
	State string
	// BytesIn went from client to backend, BytesOut the other way.
	BytesIn, BytesOut int64
	// Age is the time since accept, Idle since its sockets last told of
	// anything.
	Age, Idle time.Duration
}

// describe fills in what a session is.
func (s *session) describe(to *Session, now int64) {
	*to = Session{
		ID:          s.id,
		Forward:     s.listener.forward.Label(),
		Listener:    s.listener.Name,
		Peer:        s.peer.unpack(),
		Client:      s.client.unpack(),
		Destination: s.destination.unpack(),
		Backend:     s.backend,
		Transparent: s.source.isValid(),
		Version:     s.version,
		State:       s.state.String(),
		BytesIn:     s.sides[peer].bytes,
		BytesOut:    s.sides[backend].bytes,
		Age:         time.Duration(now - s.acceptedAt),
		Idle:        time.Duration(now - s.lastActive),
	}
	if s.details != nil {
		to.Authority = s.details.Authority
	}
}

// EachSession calls visit for every connection that goes on, one after the
// other, on the caller's goroutine; what it is given is the caller's until the
// next call. The loops are asked in small steps between which they work on, so
// that a connection that begins meanwhile may be missing. The error is of ctx.
func (e *Engine) EachSession(ctx context.Context, visit func(*Session)) error {
	var batch []Session
	for _, l := range e.loops {
		for at, more := 0, true; more; {
			batch = batch[:0]
			if err := e.askLoops(ctx, []*loop{l}, func(l *loop) bool {
				batch = l.snapshots(batch, at)
				at += snapshotStep
				more = at < l.sessions.len()
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

// snapshots appends what some of the loop's sessions are to all.
func (l *loop) snapshots(all []Session, at int) []Session {
	now := l.kernel.Now() // the loop's own clock may be older than a session that was just handed over
	for s := range l.sessions.from(at, snapshotStep) {
		if s.state != free {
			all = append(all, Session{})
			s.describe(&all[len(all)-1], now)
		}
	}
	return all
}

// Reset ends the connection that has an id, as an operator wishes: both sides
// are reset. found is false if there is none, or no more. The error is of ctx.
func (e *Engine) Reset(ctx context.Context, id uint64) (found bool, err error) {
	at := 0
	of := e.loops[id%uint64(len(e.loops))] // see open
	err = e.askLoops(ctx, []*loop{of}, func(l *loop) (more bool) {
		for s := range l.sessions.from(at, snapshotStep) {
			if s.state != free && s.id == id {
				s.resetByOperator(l)
				found = true
			}
		}
		at += snapshotStep
		return !found && at < l.sessions.len()
	})
	if err != nil {
		return false, err
	}
	return found, nil
}
