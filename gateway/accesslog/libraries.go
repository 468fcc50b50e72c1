package accesslog

import (
	"io"
	"strings"
)

// librariesRoom is how many lines of libraries may wait to be logged.
const librariesRoom = 64

// Standard returns a writer for loggers of the standard library, such as ErrorLog
// of http.Server. Each Write is a line, which appears in this log as "message from
// a library". Write neither blocks nor fails: if too many lines wait, or the log is
// closed, it drops the line. It may be called from any number of goroutines.
//
// The ring of the log itself reports collisions of writers to the standard logger,
// on the goroutine of the writer. A process whose event loops must not block on
// stderr therefore also passes Standard to log.SetOutput.
func (l *Log) Standard() io.Writer { return l.libraries }

// libraryLines is a writer that passes lines to [Log.watch]. It never waits, because
// the caller may hold the lock of a logger or run on an event loop.
type libraryLines chan string

// Write passes a line to watch, or drops it. It never fails.
func (c libraryLines) Write(p []byte) (int, error) {
	if isCollision(p) {
		return len(p), nil
	}
	select {
	case c <- strings.TrimSpace(string(p)):
	default:
	}
	return len(p), nil
}

// isCollision reports whether a line is from the ring, which reports that two
// writers met in one slot (ManyToOne.Set in zerolog/diode/internal/diodes). It
// tries again by itself, and lost lines are counted elsewhere.
func isCollision(line []byte) bool { return strings.Contains(string(line), "Diode set collision") }
