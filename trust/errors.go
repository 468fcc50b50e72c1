package trust

import (
	"errors"
	"fmt"
)

// ErrNoRule is the error that [Load] returns for a [Source] with neither rules
// nor files.
var ErrNoRule = errors.New("no trust rule given")

// Error is one problem with one rule or file. [Load] joins all problems that it
// finds with [errors.Join].
type Error struct {
	// Origin is where the rule was written: a flag ("--trust"), a line of a file
	// ("trust.txt:12"), or the path of a file when the whole file is affected. It is
	// "" for [ParsePrefix].
	Origin string
	// Problem says what is wrong and quotes the rule, if there is one.
	Problem string
	// Err is the underlying error, or nil.
	Err error

	hint string
}

// Error returns the origin, if there is one, and the problem.
func (e *Error) Error() string {
	if e.Origin == "" {
		return e.Problem
	}
	return e.Origin + ": " + e.Problem
}

// Hint returns how to fix the problem, or "" if no fix is known.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Warning describes a valid rule that may trust more than the operator intends.
type Warning struct {
	// Origin is where the rule was written, as in [Error].
	Origin string
	// Rule is the rule as written.
	Rule string
	// Message describes the risk. It follows the rule in a sentence:
	// "trusts every host: …".
	Message string
	// Redundant is true if the rule has no effect, because others cover it.
	Redundant bool
}

// String returns the warning on one line.
func (w Warning) String() string {
	return fmt.Sprintf("%s: %q %s", w.Origin, w.Rule, w.Message)
}
