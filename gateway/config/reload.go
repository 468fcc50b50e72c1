package config

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"unproxy/trust"
)

// Lists are the lists of addresses of a configuration, which can be read again
// while they are in use. Its methods are safe for concurrent use. A nil Lists
// has no lists.
type Lists struct {
	now   func() time.Time
	files *trust.Files

	reading sync.Mutex // held while files are read, which may take long
	all     []liveList
	seen    string // the files' fingerprint at the last call of Changed

	mu    sync.Mutex // never held during I/O
	state ReloadState
}

// Reloaded is the result of a reload.
type Reloaded struct {
	// Lists is the number of lists that were read, and Rules the number of
	// rules in them.
	Lists, Rules int
	// Warnings are about valid rules that are probably mistakes.
	Warnings []Warning
}

// ReloadState counts the reloads so far, without the first load.
type ReloadState struct {
	// Succeeded and Failed count reloads.
	Succeeded, Failed uint64
	// LastSuccess is the time of the last success; the zero time is never.
	LastSuccess time.Time
	// LastError is the error of the last reload; nil if it succeeded.
	LastError error
}

// Reload reads every list again: the files, and the templates in the rules of
// flags. If all lists can be read, they take effect; otherwise the old ones stay
// in force. The error joins the errors that [Load] would return for the lists.
func (l *Lists) Reload() (Reloaded, error) {
	if l == nil {
		return Reloaded{}, nil
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	done, err := l.reload()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.LastError = err
	if err != nil {
		l.state.Failed++
		return done, err
	}
	l.state.Succeeded++
	l.state.LastSuccess = l.now()
	return done, nil
}

func (l *Lists) reload() (Reloaded, error) {
	done := Reloaded{Lists: len(l.all)}
	fresh := make([]*trust.Set, len(l.all))
	var errs []error
	for i := range l.all {
		set, warnings, err := l.all[i].load()
		fresh[i] = set
		done.Rules += set.Len()
		done.Warnings = append(done.Warnings, warnings...)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return done, err
	}
	for i := range l.all {
		l.all[i].live.Replace(fresh[i])
	}
	done.Warnings = append(done.Warnings, redundant(l.all)...)
	return done, nil
}

// Changed reports whether the content of the lists' files has changed since it was
// last read. Call it at intervals: it reports a change only after two calls in a row
// saw the same content, so that a file is not read while it is being written.
// Content that failed to load is not reported again until it changes.
func (l *Lists) Changed() bool {
	if l == nil {
		return false
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	var tried, now strings.Builder
	for i := range l.all {
		tried.WriteString(l.all[i].tried)
		now.WriteString(l.files.Fingerprint(l.all[i].source.Files))
	}
	before := l.seen
	l.seen = now.String()
	return l.seen != tried.String() && l.seen == before
}

// State returns the results of the reloads so far.
func (l *Lists) State() ReloadState {
	if l == nil {
		return ReloadState{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Files returns the paths of all lists. A reload reads them again.
func (l *Lists) Files() (names []string) {
	if l == nil {
		return nil
	}
	for i := range l.all {
		names = append(names, l.all[i].source.Files...)
	}
	return names
}

// HasTemplates reports whether a rule is a template, which may run ip(8) when a reload
// evaluates it again.
func (l *Lists) HasTemplates() bool {
	if l == nil {
		return false
	}
	return slices.ContainsFunc(l.all, func(one liveList) bool {
		return slices.ContainsFunc(one.live.Set().Rules(), func(r trust.Rule) bool { return strings.Contains(r.Text, "{{") })
	})
}
