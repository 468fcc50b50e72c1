package usage

import (
	"errors"
	"fmt"
	"io"

	"unproxy/gateway/config/value"
)

// maxProblems is the number of problems that [Report] prints. The others are counted.
const maxProblems = 20

// Report prints each of the errors that err joins as a line "unproxy: error: …", and
// its hint as a line "unproxy: hint: …". It prints at most twenty, then the number of
// the others. It prints a hint that several errors share once, and skips errors of
// [Reported].
func Report(w io.Writer, err error) {
	printed := make(map[string]bool)
	count := 0
	for _, e := range Leaves(err) {
		if errors.As(e, new(reported)) {
			continue
		}
		if count++; count > maxProblems {
			continue
		}
		fmt.Fprintf(w, "unproxy: error: %s\n", value.OneLine(e.Error()))
		if hint := HintOf(e); hint != "" && !printed[hint] {
			printed[hint] = true
			fmt.Fprintf(w, "unproxy: hint: %s\n", value.OneLine(hint))
		}
	}
	if count > maxProblems {
		fmt.Fprintf(w, "unproxy: error: and %d more\n", count-maxProblems)
	}
}

// HintOf returns the hint of err or of an error that it wraps: of the first one
// with a method Hint. It returns "" if there is none.
func HintOf(err error) string {
	var hinter interface {
		error
		Hint() string
	}
	if errors.As(err, &hinter) {
		return hinter.Hint()
	}
	return ""
}

// Leaves returns the single errors of a tree made by [errors.Join], in order.
// It returns none for nil.
func Leaves(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, Leaves(e)...)
	}
	return all
}
