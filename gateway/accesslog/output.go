package accesslog

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/rs/zerolog/diode"
)

// ringSize is the number of lines that wait while the writer is slow. With
// lines of half a kilobyte they take 4 MiB.
const ringSize = 8192

// pollInterval is how long a line may wait in an idle ring. The ring's reader
// looks by itself because waking it would cost the event loop a system call
// for each line; with the ring's size it is good for 400 000 lines a second.
const pollInterval = 20 * time.Millisecond

// ring is the write side of the log: it takes lines and never blocks.
type ring struct {
	diode diode.Writer
	sink  *sink
	sent  atomic.Int64 // lines that came
	room  atomic.Int64 // lines that may wait
}

// newRing returns a ring that is written to c's writer in c's format.
func newRing(c Config) *ring {
	r := &ring{sink: newSink(c)}
	r.room.Store(ringSize)
	r.diode = diode.NewWriter(r.sink, ringSize, pollInterval, r.sink.overrun)
	return r
}

// Write takes a copy of a line. It always succeeds.
func (r *ring) Write(p []byte) (int, error) {
	n, err := r.diode.Write(p)
	r.sent.Add(1)
	return n, err
}

// dropped returns the number of lost lines. The diode tells of lines that were
// overwritten only when it comes to read in their place, which a stuck writer
// keeps it from: those that cannot be in the ring any more are counted as well.
func (r *ring) dropped() uint64 {
	gone := r.sink.passed.Load()
	beyond := max(r.sent.Load()-gone-r.room.Load(), 0)
	return r.sink.lost.Load() + uint64(beyond)
}

// flush writes all lines in the ring and ends its reader, unless that takes
// longer than wait.
func (r *ring) flush(wait time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- r.diode.Close() }()
	defer r.room.Store(0)
	select {
	case err := <-done:
		return err
	case <-time.After(wait):
		return fmt.Errorf("close the log: the writer has not taken the last lines within %v", wait)
	}
}

// sink is the read side of the log. Only the ring's reader calls it.
type sink struct {
	out    io.Writer
	notice zerolog.Logger // writes into text
	text   bytes.Buffer
	untold uint64 // lost lines that the log has not told of

	lost   atomic.Uint64 // lines overwritten or not taken by the writer
	passed atomic.Int64  // lines read or overwritten
}

// newSink returns a sink that writes to c's writer in c's format.
func newSink(c Config) *sink {
	s := &sink{out: formatted(&lineWriter{w: c.Writer}, c)}
	s.notice = zerolog.New(&s.text).Level(c.Level.zerolog()).Hook(clock{c.Now})
	return s
}

// overrun counts n lines that were overwritten before they were read.
func (s *sink) overrun(n int) {
	s.lost.Add(uint64(n))
	s.passed.Add(int64(n))
	s.untold += uint64(n)
}

// Write writes a line and, if lines were lost before it, one that says so.
func (s *sink) Write(p []byte) (int, error) {
	s.passed.Add(1)
	if err := s.put(p); err != nil {
		s.lost.Add(1)
		s.untold++
		return 0, err
	}
	if s.untold > 0 {
		s.tell()
	}
	return len(p), nil
}

// tell writes how many lines were lost since it was told last.
func (s *sink) tell() {
	s.text.Reset()
	s.notice.Warn().Uint64("count", s.untold).Msg("log lines dropped")
	if s.text.Len() == 0 || s.put(s.text.Bytes()) == nil {
		s.untold = 0
	}
}

// put writes one line whole, or fails.
func (s *sink) put(p []byte) error {
	n, err := s.out.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// lineWriter keeps lines apart after one of them was cut short, as it is by a
// disk that becomes full.
type lineWriter struct {
	w    io.Writer
	torn bool
}

// Write writes p, on a new line if the last one was torn.
func (l *lineWriter) Write(p []byte) (int, error) {
	if l.torn {
		if _, err := io.WriteString(l.w, "\n"); err != nil {
			return 0, err
		}
		l.torn = false
	}
	n, err := l.w.Write(p)
	l.torn = n > 0 && n < len(p)
	return n, err
}
