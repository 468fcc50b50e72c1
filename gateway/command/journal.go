package command

import (
	"bytes"
	"io"
	"os"
	"slices"

	"unproxy/gateway/accesslog"
)

// isJournal reports whether w is systemd's journal.
func isJournal(w io.Writer) bool { return accesslog.IsJournal(w, os.Getenv("JOURNAL_STREAM")) }

// messages returns the writer for the lines of errors, hints and warnings: stderr, or
// one that gives them their priority if that is the journal.
func messages(stderr io.Writer) io.Writer {
	if isJournal(stderr) {
		return journal{stderr}
	}
	return stderr
}

// journal writes lines, one a call, with their priority. A hint has that of its error.
type journal struct{ w io.Writer }

func (j journal) Write(line []byte) (int, error) {
	priority := accesslog.PriorityError
	if bytes.HasPrefix(line, []byte("unproxy: warning: ")) {
		priority = accesslog.PriorityWarning
	}
	if _, err := j.w.Write(slices.Concat([]byte(priority), line)); err != nil {
		return 0, err
	}
	return len(line), nil
}
