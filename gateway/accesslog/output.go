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

// ringSize is the number of lines that can wait for a slow writer. Lines of half
// a kilobyte take 4 MiB.
const ringSize = 8192

// pollInterval is how often the reader of an idle ring polls. A wake-up would
// cost the event loop a system call for each line. With ringSize this allows for
// 400 000 lines per second.
const pollInterval = 20 * time.Millisecond

// ring is the write side of the log: it takes lines and never blocks.
type ring struct {
	diode diode.Writer
	sink  *sink
	sent  atomic.Int64 // lines written into the ring
	room  atomic.Int64 // lines that can wait: ringSize, and 0 once closed
}

// newRing returns a ring whose lines go to c.Writer in the format of c.
func newRing(c Config) *ring {
	r := &ring{sink: newSink(c)}
	r.room.Store(ringSize)
	r.diode = diode.NewWriter(r.sink, ringSize, pollInterval, r.sink.overrun)
	return r
}

// Write copies a line into the ring. It always succeeds.
func (r *ring) Write(p []byte) (int, error) {
	n, err := r.diode.Write(p)
	r.sent.Add(1)
	return n, err
}

// dropped returns the number of lost lines. The diode reports overwritten lines
// only when its reader reaches their slots, which does not happen while the
// writer is stuck. So lines that no longer fit in the ring are counted as well.
func (r *ring) dropped() uint64 {
	gone := r.sink.passed.Load()
	overwritten := max(r.sent.Load()-gone-r.room.Load(), 0)
	return r.sink.lost.Load() + uint64(overwritten)
}

// flush writes all lines in the ring and stops its reader. It returns an error
// if that takes longer than wait.
func (r *ring) flush(wait time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- r.diode.Close() }()
	defer r.room.Store(0)
	select {
	case err := <-done:
		return err
	case <-time.After(wait):
		return fmt.Errorf("close the log: the writer did not take the last lines within %v", wait)
	}
}

// sink is the read side of the log. Only the goroutine that reads the ring
// writes to it.
type sink struct {
	out        io.Writer
	lines      *lineWriter    // what out leads to
	notice     zerolog.Logger // writes into text
	text       bytes.Buffer
	unreported uint64 // lost lines that the log has not reported yet

	lost   atomic.Uint64 // lines overwritten, or not taken by the writer
	passed atomic.Int64  // lines read or overwritten
}

// newSink returns a sink that writes to c.Writer in the format of c.
func newSink(c Config) *sink {
	s := &sink{lines: &lineWriter{w: c.Writer, journal: c.Journal}}
	s.out = formatted(s.lines, c)
	s.notice = zerolog.New(&s.text).Level(c.Level.zerolog()).Hook(clock{c.Now})
	return s
}

// overrun counts n lines that were overwritten before they were read.
func (s *sink) overrun(n int) {
	s.lost.Add(uint64(n))
	s.passed.Add(int64(n))
	s.unreported += uint64(n)
}

// Write writes a line and, if lines were lost before it, a line that reports how
// many.
func (s *sink) Write(p []byte) (int, error) {
	s.passed.Add(1)
	if err := s.put(p); err != nil {
		s.lost.Add(1)
		s.unreported++
		return 0, err
	}
	if s.unreported > 0 {
		s.report()
	}
	return len(p), nil
}

// report writes how many lines were lost since the last report.
func (s *sink) report() {
	s.text.Reset()
	s.notice.Warn().Uint64("count", s.unreported).Msg("log lines dropped")
	if s.text.Len() == 0 || s.put(s.text.Bytes()) == nil {
		s.unreported = 0
	}
}

// put writes a whole line, or returns an error.
func (s *sink) put(p []byte) error {
	s.lines.begin(p)
	n, err := s.out.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// lineWriter starts a new line after a line that was cut short, for example
// because the disk was full. For the journal it begins lines with their priority.
type lineWriter struct {
	w    io.Writer
	torn bool

	journal  bool
	priority string // of the next line
	line     []byte // with its priority; reused
}

// begin tells of the JSON of the next line, in whatever format it comes.
func (l *lineWriter) begin(json []byte) {
	if l.journal {
		l.priority = priorityOf(json)
	}
}

// Write writes p, on a new line if the previous one was torn.
func (l *lineWriter) Write(p []byte) (int, error) {
	if l.torn {
		if _, err := io.WriteString(l.w, "\n"); err != nil {
			return 0, err
		}
		l.torn = false
	}
	if l.priority != "" {
		l.line = append(append(l.line[:0], l.priority...), p...)
		p = l.line
	}
	n, err := l.w.Write(p)
	l.torn = n > 0 && n < len(p)
	return max(n-len(l.priority), 0), err
}
