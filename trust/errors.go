package trust

import (
	"errors"
	"fmt"
)

// ErrNoRule is the error of [Load] when neither a rule nor a file was given.
var ErrNoRule = errors.New("no trust rule is given")

// Error is one fault in one rule or file. [Load] joins all it finds with
// [errors.Join].
type Error struct {
	// Origin is where the rule was written: a flag, "--trust", a line of a
	// file, "trust.txt:12", or a file as a whole.
	Origin string
	// Problem says what is wrong, and quotes the rule if it concerns one.
	Problem string
	// Mend says how to put it right; empty where that is not known.
	Mend string
	// Err is the error behind it, if there is one.
	Err error
}

// Error returns the origin and the problem.
func (e *Error) Error() string { return e.Origin + ": " + e.Problem }

// Hint returns how to put it right, or the empty string.
func (e *Error) Hint() string { return e.Mend }

// Unwrap returns the error behind it, such as that of opening a file.
func (e *Error) Unwrap() error { return e.Err }

// Warning is something about a rule that works and yet may not be meant.
type Warning struct {
	// Origin is where the rule was written, as in [Error].
	Origin string
	// Rule is the rule as it was written.
	Rule string
	// Message says what there is to know.
	Message string
}

// String returns the warning on one line.
func (w Warning) String() string {
	return fmt.Sprintf("%s: %q %s", w.Origin, w.Rule, w.Message)
}
