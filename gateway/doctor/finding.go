package doctor

import (
	"fmt"
	"slices"
)

// Status is the result of a check.
type Status uint8

// The values of [Status].
const (
	// OK: as it should be.
	OK Status = iota
	// Skip: not checked, for the reason in [Finding.Detail].
	Skip
	// Warn: works, but may be unintended or stop working.
	Warn
	// Fail: connections fail.
	Fail
)

var statuses = [...]string{OK: "ok", Skip: "skip", Warn: "warn", Fail: "fail"}

// String returns the status as a word: "ok", "skip", "warn" or "fail".
func (s Status) String() string { return statuses[s] }

// MarshalText implements [encoding.TextMarshaler]. It returns [Status.String].
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], for the findings of another process.
func (s *Status) UnmarshalText(text []byte) error {
	i := slices.Index(statuses[:], string(text))
	if i < 0 {
		return fmt.Errorf("%q is not the status of a finding", text)
	}
	*s = Status(i)
	return nil
}

// Finding is the result of one check of one target.
type Finding struct {
	// Code identifies the finding; see [Codes].
	Code Code `json:"code"`
	// Component is the part of the gateway or its host that was checked; see
	// [Code.Component].
	Component string `json:"component"`
	// Target is what was checked: a backend, a listener, a limit.
	Target string `json:"target"`
	Status Status `json:"status"`
	// Detail describes the result in one sentence.
	Detail string `json:"detail"`
	// Hint is how to fix it, one shell command or "#" comment per element. A
	// command may span several lines.
	Hint []string `json:"action,omitempty"`
}

// Report is the result of a run.
type Report struct {
	// Findings are in the order of the checks.
	Findings []Finding `json:"findings"`
}

// Count returns the number of findings with a status.
func (r Report) Count(s Status) int {
	n := 0
	for _, f := range r.Findings {
		if f.Status == s {
			n++
		}
	}
	return n
}

// finding returns a finding with the component of its code.
func finding(c Code, target string, s Status, format string, args ...any) Finding {
	return Finding{Code: c, Component: c.Component(), Target: target, Status: s, Detail: fmt.Sprintf(format, args...)}
}

// with returns the finding with a hint.
func (f Finding) with(hint ...string) Finding {
	f.Hint = hint
	return f
}

// withoutConsequences returns the findings without those that another one causes.
// A failure of the process or the host can cause any finding; a failure of a
// backend only one with the same target.
func withoutConsequences(all []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(all), func(f Finding) bool {
		return f.Status != OK && slices.ContainsFunc(all, func(cause Finding) bool {
			related := cause.Component == process || cause.Component == host || cause.Target == f.Target
			return cause.Status == Fail && related && f.Code.follows(cause.Code)
		})
	})
}
