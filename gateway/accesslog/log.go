// Package accesslog writes one line for each finished connection, and all other
// lines of the daemon.
//
//	l, err := accesslog.New(accesslog.Config{Writer: os.Stderr})
//	...
//	defer l.Close()
//	l.Logger().Info().Msg("ready")
//	l.Connection(c) // on the event loop
//
// Writing a line never waits for a lock, a stopped terminal or a full disk. A
// line goes into a ring, and one goroutine writes the ring to the writer. If the
// ring is full, lines are dropped and counted, and the log reports the count
// once the writer takes lines again. Port scans and broken backends cause
// floods of refusals, so the lines of refusals are limited to a few per second
// for each outcome; the log reports how many were left out.
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

// Config says where a [Log] goes and what it contains. Only Writer is required.
type Config struct {
	// Writer takes whole lines, one per call, from one goroutine. If it blocks
	// or fails, lines are lost and nothing else happens. The log does not
	// close it.
	Writer io.Writer
	Format Format
	Level  Level
	Mode   Mode
	// Journal begins each line with its priority, such as "<4>", for a writer that
	// is systemd's journal, see [IsJournal].
	Journal bool
	// Instance is the prefix of connection IDs, see [record.AppendID]. It makes
	// the IDs of two processes differ. Empty means random digits.
	Instance string
	// Now is the clock; nil is [time.Now].
	Now func() time.Time
}

// Log is an open log. Its methods may be called from any number of goroutines.
// Only Close blocks.
type Log struct {
	mode  Mode
	level Level
	now   func() time.Time

	instance string

	ring   *ring
	lines  zerolog.Logger // for connections; addTime sets their time
	others zerolog.Logger // for all other lines
	floods []flood        // by outcome

	libraries libraryLines

	stop, stopped chan struct{}
	close         sync.Once
	closeErr      error
}

// closeWait is how long Close waits for a writer that does not take the last
// lines.
const closeWait = time.Second

// instanceSize is the number of random bytes in an instance.
const instanceSize = 4

// New opens a log and starts its goroutines, which [Log.Close] stops. It returns
// an error if there is no writer, or no randomness for an instance.
func New(c Config) (*Log, error) {
	if c.Writer == nil {
		return nil, errors.New("open the log: no writer given")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Instance == "" {
		random := make([]byte, instanceSize)
		if _, err := rand.Read(random); err != nil {
			return nil, fmt.Errorf("open the log: random instance: %w", err)
		}
		c.Instance = hex.EncodeToString(random)
	}
	l := &Log{
		mode: c.Mode, level: c.Level, instance: c.Instance, now: c.Now,
		floods: make([]flood, record.NumOutcomes), libraries: make(libraryLines, librariesRoom),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	l.ring = newRing(c)
	l.lines = zerolog.New(l.ring).Level(c.Level.zerolog())
	l.others = l.lines.Hook(clock{c.Now})
	go l.watch()
	return l, nil
}

// Logger returns the logger for all lines other than those of connections. It is
// the same for the life of the log.
func (l *Log) Logger() *zerolog.Logger { return &l.others }

// Instance returns the prefix of connection IDs.
func (l *Log) Instance() string { return l.instance }

// Dropped returns the number of lines that were lost because the writer was too
// slow or failed. It never decreases. While several goroutines overrun a slow
// writer, it may be a few too high.
func (l *Log) Dropped() uint64 { return l.ring.dropped() }

// Close writes the lines that wait in the ring. If the writer does not take them
// within a second, Close gives up and returns an error. Later lines are lost.
// Only the first call does anything; all calls return its error.
func (l *Log) Close() error {
	l.close.Do(func() {
		close(l.stop)
		<-l.stopped
		l.closeErr = l.ring.flush(closeWait)
	})
	return l.closeErr
}

// watch logs once per second how many lines floods have left out, and logs the
// lines of libraries as they arrive.
func (l *Log) watch() {
	defer close(l.stopped)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-l.stop:
			l.reportFloods()
			return
		case <-second.C:
			l.reportFloods()
		case text := <-l.libraries:
			l.others.Warn().Str("detail", printable(text)).Msg("message from a library")
		}
	}
}

// reportFloods writes a line for each outcome whose lines were left out since
// the last call.
func (l *Log) reportFloods() {
	for i := range l.floods {
		n := l.floods[i].leftOut.Swap(0)
		if n == 0 {
			continue
		}
		outcome := record.Outcome(i)
		l.others.WithLevel(severityLevel(outcome.Severity())).
			Str("outcome", outcome.String()).Uint64("count", n).Msg("connections left out")
	}
}

// clock is a zerolog hook that adds the time to a line.
type clock struct{ now func() time.Time }

// Run implements [zerolog.Hook].
func (c clock) Run(e *zerolog.Event, _ zerolog.Level, _ string) { addTime(e, c.now()) }

// addTime adds the time to an event. It replaces zerolog's own time field, whose
// format is a variable of that package.
func addTime(e *zerolog.Event, t time.Time) {
	var buf [24]byte
	e.Bytes(zerolog.TimestampFieldName, appendTime(buf[:0], t))
}

// appendTime appends t in UTC in the format of RFC 3339, with milliseconds.
// Formatting it by a layout would take a quarter of the time of the whole line.
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
