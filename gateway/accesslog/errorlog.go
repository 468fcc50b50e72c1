package accesslog

import (
	"log"
	"strings"
)

// errorLogRoom is how many lines of libraries may wait to be logged.
const errorLogRoom = 64

// ErrorLog returns a logger for servers of the standard library (ErrorLog of
// http.Server). Its lines appear in this log as "message from a library".
//
// Printing never blocks: if too many lines wait, or the log is closed, a line is
// dropped. The ring of the log itself reports collisions of writers to the
// standard logger, on the goroutine of the writer. A process whose event loops
// must not block on stderr therefore also passes ErrorLog().Writer() to
// log.SetOutput.
func (l *Log) ErrorLog() *log.Logger { return log.New(l.libraries, "", 0) }

// libraryLines is a writer that hands lines to [Log.watch]. Writers may hold the
// lock of their logger and may be event loops, so that it never waits.
type libraryLines chan string

// Write hands a line over. It always succeeds.
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
