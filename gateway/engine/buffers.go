package engine

import "sync/atomic"

// buffers counts the bytes that all sessions hold in memory of the process, because the other side
// has not taken them yet, or because a header is not complete. At the limit nothing is read that
// might have to be held: every read leaves the bytes in the socket until the other side has taken
// them, and sides that hold bytes read no further anyway.
type buffers struct {
	limit int64 // 0: none
	held  atomic.Int64
}

// full reports whether the limit is reached.
func (b *buffers) full() bool { return b.limit > 0 && b.held.Load() >= b.limit }

// hold keeps a copy of b, which was read from a side, until the other side takes it.
func (l *loop) hold(d *side, b []byte) {
	if len(b) == 0 {
		return
	}
	d.held = append([]byte(nil), b...)
	l.charge(d)
}

// release drops the memory of the held bytes.
func (l *loop) release(d *side) {
	d.held = nil
	l.charge(d)
}

// charge counts the memory of d.held, after it was replaced.
func (l *loop) charge(d *side) {
	now := uint32(cap(d.held))
	if now == d.charged {
		return
	}
	l.engine.buffers.held.Add(int64(now) - int64(d.charged))
	d.charged = now
}
