package command

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"unproxy/gateway/config"
	"unproxy/transparent/routing"
	"unproxy/trust"
)

// The exit codes of every command.
const (
	exitOK     = 0 // all is well
	exitFailed = 1 // it failed while running
	exitUsage  = 2 // the command line or the configuration is wrong
	exitFound  = 3 // a look at this host found something that does not work
)

// usageError is a mistake in the command line or in the configuration. It ends
// the process with exit code 2.
type usageError struct {
	// msg says what is wrong, with the value that is: lower case, no full stop.
	msg string
	// hint says what to type instead; "" is no hint.
	hint string
}

// Error returns what is wrong, without the hint.
func (e usageError) Error() string { return e.msg }

// Hint returns what to do about it, or "".
func (e usageError) Hint() string { return e.hint }

// hinter is an error that knows what to do about itself, as [usageError], the
// problems of a configuration and those of a missing capability do.
type hinter interface {
	error
	Hint() string
}

// reported is an error of which all has been said already: the process ends
// with its code and prints nothing more.
type reported struct{ code int }

// Error is there for the interface; it is never printed.
func (r reported) Error() string { return fmt.Sprintf("exit code %d", r.code) }

// exitCode returns the code that a process which ends with err leaves behind.
// A single mistake of usage makes all of it a mistake of usage: whatever else
// went wrong came of the same command line.
func exitCode(err error) int {
	var (
		done       reported
		usage      usageError
		setting    *config.Problem
		rule       *trust.Error
		unresolved *routing.UnresolvedError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &done):
		return done.code
	case errors.As(err, &usage), errors.As(err, &setting), errors.As(err, &rule), errors.As(err, &unresolved):
		return exitUsage
	}
	return exitFailed
}

// report prints every problem that err holds, one line each and its hint
// below it. Joined errors are taken apart, so that an operator sees all
// problems at once; a hint that follows from several is printed once.
func report(w io.Writer, err error) {
	told := make(map[string]bool)
	for _, e := range leaves(err) {
		var done reported
		if errors.As(e, &done) {
			continue
		}
		fmt.Fprintf(w, "unproxy: error: %s\n", oneLine(e.Error()))
		hint := hintOf(e)
		if hint == "" || told[hint] {
			continue
		}
		told[hint] = true
		fmt.Fprintf(w, "unproxy: hint: %s\n", oneLine(hint))
	}
}

// hintOf returns the hint of e or of the error that it wraps.
func hintOf(e error) string {
	var h hinter
	if errors.As(e, &h) {
		return h.Hint()
	}
	return ""
}

// leaves returns the single errors of a tree of joined ones, in order.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, leaves(e)...)
	}
	return all
}

// oneLine keeps a message on its line, whatever a value in it holds.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
