// Package accesslog writes one line for each finished connection, and the
// daemon's other lines beside them.
//
// Writing a line never waits: not for a lock, not for a terminal that was
// stopped, not for a full disk. A line goes into a ring from which one
// goroutine writes; what the ring cannot hold is dropped, counted, and told of
// in the log itself once it flows again. Refusals come in floods, whenever
// somebody scans the port or a backend is down: of each outcome the first few
// of a second are written and the others counted.
package accesslog

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"unproxy/gateway/record"
)

// Config says where a [Log] goes and what is in it.
type Config struct {
	// Writer takes whole lines, one a call, from one goroutine. It may block
	// or fail. Lines are lost then and nothing else is. The log does not
	// close it.
	Writer io.Writer
	Format Format
	Level  Level
	Mode   Mode
	// Instance begins each connection's id, so that ids of two processes
	// differ. Empty takes a few random digits.
	Instance string
	// Now is the clock; nil is [time.Now].
	Now func() time.Time
}

// Log is an open log. Its methods may be called from any number of goroutines
// and do not block, save Close.
type Log struct {
	mode  Mode
	level Level
	now   func() time.Time

	instance string

	ring   *ring
	lines  zerolog.Logger // of connections, which bring their own time
	others zerolog.Logger
	floods []flood // by outcome
	stray  *stray

	stop, stopped chan struct{}
	close         sync.Once
	closed        error
}

// closeWait is how long Close waits for a writer that does not take the last
// lines.
const closeWait = time.Second

// New opens a log.
func New(c Config) (*Log, error) {
	if c.Writer == nil {
		return nil, errors.New("open the log: there is no writer")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Instance == "" {
		random := make([]byte, 4)
		if _, err := rand.Read(random); err != nil {
			return nil, fmt.Errorf("open the log: %w", err)
		}
		c.Instance = hex.EncodeToString(random)
	}
	l := &Log{
		mode: c.Mode, level: c.Level, instance: c.Instance, now: c.Now,
		floods: make([]flood, len(record.Outcomes())),
		stop:   make(chan struct{}), stopped: make(chan struct{}),
	}
	l.ring = newRing(c)
	l.lines = zerolog.New(l.ring).Level(c.Level.zerolog())
	l.others = l.lines.Hook(clock{c.Now})
	l.stray = newStray()
	go l.watch()
	return l, nil
}

// Logger returns the logger for all lines that are not of a connection. It
// stays the same.
func (l *Log) Logger() *zerolog.Logger { return &l.others }

// Standard returns where libraries should log, by package log's SetOutput or
// http.Server.ErrorLog: their lines would otherwise go to stderr, past the ring, and
// could block their caller. Each Write is a line; it neither blocks nor fails.
func (l *Log) Standard() io.Writer { return l.stray }

// Instance returns what begins each connection's id.
func (l *Log) Instance() string { return l.instance }

// Dropped returns the number of lines that were lost because the writer was
// too slow or failed. It only grows. While several goroutines overrun a slow
// writer it may count a few too many.
func (l *Log) Dropped() uint64 { return l.ring.dropped() }

// Close writes what is still to be written, for at most a second if the writer
// does not take it. Lines that come later are lost. Only the first call does
// anything; all return its error.
func (l *Log) Close() error {
	l.close.Do(func() {
		close(l.stop)
		<-l.stopped
		l.closed = l.ring.flush(closeWait)
	})
	return l.closed
}

// watch tells once a second what was left out of floods, and passes on what
// the standard library's logger was told.
func (l *Log) watch() {
	defer close(l.stopped)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-l.stop:
			l.tellFloods()
			return
		case <-second.C:
			l.tellFloods()
		case text := <-l.stray.lines:
			l.others.Warn().Str("detail", printable(text)).Msg("message of a library")
		}
	}
}

// tellFloods writes a line for each outcome of which lines were left out since
// it was called last.
func (l *Log) tellFloods() {
	for i := range l.floods {
		n := l.floods[i].left.Swap(0)
		if n == 0 {
			continue
		}
		outcome := record.Outcome(i)
		l.others.WithLevel(severityLevel(outcome.Severity())).
			Str("outcome", outcome.String()).Uint64("count", n).Msg("connections left out")
	}
}

// clock puts the time on lines that are not of a connection.
type clock struct{ now func() time.Time }

// Run adds the time to an event.
func (c clock) Run(e *zerolog.Event, _ zerolog.Level, _ string) { addTime(e, c.now()) }

// addTime adds the time to an event. It stands for zerolog's own time field,
// whose format is a variable of that package.
func addTime(e *zerolog.Event, t time.Time) {
	var buf [24]byte
	e.Bytes(zerolog.TimestampFieldName, appendTime(buf[:0], t))
}

// appendTime appends t as RFC 3339 has it, in UTC with milliseconds. Doing so
// with a layout takes a quarter of the time of the whole line.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(b, year, 4)
	b = appendDigits(append(b, '-'), int(month), 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), hour, 2)
	b = appendDigits(append(b, ':'), minute, 2)
	b = appendDigits(append(b, ':'), second, 2)
	b = appendDigits(append(b, '.'), t.Nanosecond()/1e6, 3)
	return append(b, 'Z')
}

// appendDigits appends the last width decimal digits of n.
func appendDigits(b []byte, n, width int) []byte {
	for range width {
		b = append(b, '0')
	}
	for i := len(b) - 1; i >= len(b)-width; i-- {
		b[i] += byte(n % 10)
		n /= 10
	}
	return b
}
