package config

import (
	"errors"
	"fmt"

	"unproxy/gateway/config/value"
)

// Problem is one thing that is wrong with a configuration, and what to do
// about it. All problems of a configuration are found at once: the error of
// [Load] and of [Config.Validate] joins them.
type Problem struct {
	// Message says what is wrong, with the value that is.
	Message string
	// Remedy says what to write instead; "" when the message says it all.
	Remedy string
}

// Error returns the message.
func (p *Problem) Error() string { return p.Message }

// Hint returns the remedy.
func (p *Problem) Hint() string { return p.Remedy }

// Warning is something in a configuration that works but that the operator
// should know of, such as a trust rule that covers everybody.
type Warning struct {
	// Message says what is doubtful.
	Message string
	// Remedy says what to write instead, or "".
	Remedy string
	// About is what it is about, where others look at the same.
	About Topic
}

// Topic is what a warning is about.
type Topic uint8

// The topics.
const (
	AboutSettings Topic = iota
	AboutTrust
	AboutDescriptors
)

// String returns the warning in one line.
func (w Warning) String() string {
	if w.Remedy == "" {
		return w.Message
	}
	return w.Message + ": " + w.Remedy
}

// problems collects what is wrong with one thing.
type problems struct {
	prefix string
	all    []error
}

// add records that what is wrong, and the remedy, if one is known.
func (p *problems) add(what, remedy string) {
	p.all = append(p.all, &Problem{Message: p.prefix + what, Remedy: remedy})
}

// err returns the problems in the order they were found, or nil.
func (p *problems) err() error { return errors.Join(p.all...) }

// atFault returns the one of several values that err is about.
func atFault(values []string, err error) string {
	if e, ok := errors.AsType[*value.Error](err); ok && e.Value != "" {
		return e.Value
	}
	return last(values)
}

// FlagProblem is the problem with the value of a flag; err is what package
// settings says of it.
func FlagProblem(name, text string, err error) error {
	return &Problem{
		Message: fmt.Sprintf("--%s %q %v", name, value.Shorten(text), err),
		Remedy:  remedy(err, "--"+name+" "),
	}
}

// remedy says what to write instead of a value; prefix goes before it.
func remedy(err error, prefix string) string {
	var e *value.Error
	if !errors.As(err, &e) || e.Instead == "" {
		return ""
	}
	return "did you mean " + prefix + e.Instead + "?"
}
