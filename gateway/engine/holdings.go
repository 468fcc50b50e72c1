package engine

import (
	"context"
	"time"

	"unproxy/gateway/record"
)

// idleFor is how long a connection without an event counts as idle.
const idleFor = int64(time.Minute)

// Holdings is what the open connections hold without using it.
type Holdings struct {
	// Blocked is the number of connections in which one side does not read what the other has sent.
	Blocked int
	// HalfClosed is the number of those in which one side has ended its stream.
	HalfClosed int
	// Idle is the number of those without an event for a minute, whatever their state.
	Idle int
	// Buffered is the memory, in bytes, for what was read and not yet taken by the other side, Piped
	// what waits in pipes.
	Buffered, Piped int64
}

// Holdings returns what the connections hold. The loops are asked in steps and work in between. The
// error is the cause of ctx. It is safe for concurrent use.
func (e *Engine) Holdings(ctx context.Context) (Holdings, error) {
	perLoop, at := make([]Holdings, len(e.loops)), make([]int, len(e.loops))
	if err := e.askLoops(ctx, e.loops, func(l *loop) (more bool) {
		now := l.kernel.Now()
		return l.step(&at[l.index], func(s *session) { perLoop[l.index].add(s, now) })
	}); err != nil {
		return Holdings{}, err
	}
	var all Holdings
	for _, h := range perLoop {
		all.Blocked += h.Blocked
		all.HalfClosed += h.HalfClosed
		all.Idle += h.Idle
		all.Buffered += h.Buffered
		all.Piped += h.Piped
	}
	return all, nil
}

func (h *Holdings) add(s *session, now int64) {
	if s.blockedSide() != "" {
		h.Blocked++
	}
	if s.halfClosedSide() != "" {
		h.HalfClosed++
	}
	if now-s.lastActive >= idleFor {
		h.Idle++
	}
	buffered, piped := s.buffered()
	h.Buffered += buffered
	h.Piped += piped
}

// blockedSide returns [Session.Blocked].
func (s *session) blockedSide() string {
	if s.state != relaying {
		return ""
	}
	switch toBackend, toPeer := s.flushed(peer), s.flushed(backend); {
	case !toBackend && !toPeer:
		return "both"
	case !toBackend:
		return record.Backend.String()
	case !toPeer:
		return record.Client.String()
	}
	return ""
}

// halfClosedSide returns [Session.HalfClosed].
func (s *session) halfClosedSide() string {
	if s.state != relaying || s.sides[peer].eof == s.sides[backend].eof {
		return ""
	}
	if s.sides[peer].eof {
		return record.Client.String()
	}
	return record.Backend.String()
}

// buffered returns [Session.Buffered] and [Session.Piped].
func (s *session) buffered() (memory, piped int64) {
	for i := range s.sides {
		d := &s.sides[i]
		memory += int64(d.charged)
		if d.pipe != nil {
			piped += int64(d.pipe.n)
		}
	}
	return memory, piped
}
