package doctor

import (
	"fmt"
	"slices"
)

// Status is what a check came to.
type Status uint8

// The statuses.
const (
	// OK: it is as it must be.
	OK Status = iota
	// Skip: it could not be looked at, and Detail says why.
	Skip
	// Warn: it works, but may not be meant, or not for long.
	Warn
	// Fail: connections fail.
	Fail
)

var statuses = [...]string{OK: "ok", Skip: "skip", Warn: "warn", Fail: "fail"}

// String returns the status's word.
func (s Status) String() string { return statuses[s] }

// MarshalText implements [encoding.TextMarshaler] with the status's word.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is what one check found out about one thing.
type Finding struct {
	// Code names what was found out; see [Codes].
	Code Code `json:"code"`
	// Component is the part of the gateway or its host that was looked at.
	Component string `json:"component"`
	// Target is which one of those: a backend, a listener, a limit.
	Target string `json:"target"`
	Status Status `json:"status"`
	// Detail says in a sentence what was seen.
	Detail string `json:"detail"`
	// Action is what mends it, ready for a shell, a command each. What is no
	// command is a comment, which begins with "#". A command may span several
	// lines.
	Action []string `json:"action,omitempty"`
}

// Report is what an examination came to.
type Report struct {
	// Findings are in the order of the checks.
	Findings []Finding `json:"findings"`
}

// Count returns the number of findings of a status.
func (r Report) Count(s Status) int {
	n := 0
	for _, f := range r.Findings {
		if f.Status == s {
			n++
		}
	}
	return n
}

// finding makes a finding; the component is the code's.
func finding(c Code, target string, s Status, format string, args ...any) Finding {
	return Finding{Code: c, Component: c.row().component, Target: target, Status: s, Detail: fmt.Sprintf(format, args...)}
}

// with returns the finding with what mends it.
func (f Finding) with(action ...string) Finding {
	f.Action = action
	return f
}

// causes returns the findings less those that only follow from another one:
// who mends the cause is rid of both. What is wrong with the process or the host
// can be the cause of all; what is wrong with a backend, only of what else there
// is to say of that.
func causes(all []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(all), func(f Finding) bool {
		return f.Status != OK && slices.ContainsFunc(all, func(cause Finding) bool {
			near := cause.Component == process || cause.Component == host || cause.Target == f.Target
			return cause.Status == Fail && near && f.Code.follows(cause.Code)
		})
	})
}
