package engine

import "context"

// SessionSize is the memory of a connection, in bytes, without what it holds, or little more.
const SessionSize = 384

// GiveBack gives up the memory of connections that have ended, and idle pipes. It costs each loop
// some nanoseconds for each connection that was ever open at a time, so it is for the time after a
// burst. The memory is free after a garbage collection. The error is the cause of ctx. It is safe
// for concurrent use.
func (e *Engine) GiveBack(ctx context.Context) error {
	return e.askLoops(ctx, e.loops, func(l *loop) (more bool) {
		l.sessions.shrink()
		l.pipes.close()
		return false
	})
}
