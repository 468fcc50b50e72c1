package config

import (
	"errors"
	"fmt"

	"unproxy/gateway/config/value"
)

// Problem is a fault in a configuration. The errors of [Load] and
// [Config.Validate] join all of them.
type Problem struct{ message, hint string }

// NewProblem returns a problem. The message says what is wrong and quotes the
// value; the hint says what to write instead, or is "" if the message does.
func NewProblem(message, hint string) *Problem { return &Problem{message, hint} }

// Error returns the message.
func (p *Problem) Error() string { return p.message }

// Hint says what to write instead, or "".
func (p *Problem) Hint() string { return p.hint }

// Warning describes a valid configuration that is probably a mistake, such as a
// trust rule that covers every address.
type Warning struct {
	// Message says what is doubtful.
	Message string
	// Hint says what to write instead, or is "".
	Hint string
	// About is the subject. The doctor has checks of its own for some subjects.
	About Topic
}

// Topic is what a warning is about.
type Topic uint8

// The topics.
const (
	AboutSettings Topic = iota
	AboutTrust
	AboutDescriptors
	// AboutLocalhost: a server on this host sees clients as localhost. Whether the
	// server grants privileges to localhost is unknown.
	AboutLocalhost
)

// String returns the warning in one line.
func (w Warning) String() string {
	if w.Hint == "" {
		return w.Message
	}
	return w.Message + ": " + w.Hint
}

// problems collects problems.
type problems struct {
	prefix string
	all    []error
}

// add records a problem.
func (p *problems) add(message, hint string) {
	p.all = append(p.all, NewProblem(p.prefix+message, hint))
}

// err returns the problems in the order in which they were found, or nil.
func (p *problems) err() error { return errors.Join(p.all...) }

// atFault returns the value that err is about.
func atFault(values []string, err error) string {
	if e, ok := errors.AsType[*value.Error](err); ok && e.Value != "" {
		return e.Value
	}
	return last(values)
}

// FlagProblem returns the problem of a flag's value. err is the error of package
// value.
func FlagProblem(name, text string, err error) error {
	return NewProblem(fmt.Sprintf("--%s %q %v", name, value.Shorten(text), err), valueHint(err, "--"+name+" "))
}

// valueHint returns the hint of an error of package value; prefix precedes the
// suggested value.
func valueHint(err error, prefix string) string {
	var e *value.Error
	if !errors.As(err, &e) || e.Hint == "" {
		return ""
	}
	return "did you mean " + prefix + e.Hint + "?"
}

// HintOf returns the hint of err or of an error that it wraps: of the first one
// with a method Hint. It returns "" if there is none.
func HintOf(err error) string {
	type hinter interface {
		error
		Hint() string
	}
	if h, ok := errors.AsType[hinter](err); ok {
		return h.Hint()
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
