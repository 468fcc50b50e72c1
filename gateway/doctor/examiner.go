package doctor

import (
	"context"
	"slices"
	"sync"
	"time"
)

// restTime is how long an examination holds: who asks sooner gets the last one.
const restTime = time.Minute

// Examiner examines a gateway from within while it runs, when somebody asks for
// it, and keeps what it found. It runs no programs. Its methods may be called
// from several goroutines, none of which may be an event loop's.
type Examiner struct {
	host    Host
	subject Subject
	watch   *Watch // nil where there is none
	now     func() time.Time

	examining sync.Mutex // one examination at a time

	mu    sync.Mutex
	last  Report
	ended time.Time
}

// NewExaminer returns an examiner that has not looked at anything. The watch is
// that of the same gateway, or nil; now is the clock, nil is [time.Now].
func NewExaminer(h Host, s Subject, w *Watch, now func() time.Time) *Examiner {
	if now == nil {
		now = time.Now
	}
	return &Examiner{host: h.withoutPrograms(), subject: s, watch: w, now: now}
}

// Examine makes every check, and returns when that is done. It does nothing
// within a minute after the last time: each backend is connected to. What ctx
// cuts short is forgotten.
func (e *Examiner) Examine(ctx context.Context) {
	e.examining.Lock()
	defer e.examining.Unlock()
	if _, ended := e.found(); !ended.IsZero() && e.now().Sub(ended) < restTime {
		return
	}
	report := Examine(ctx, e.host, e.subject)
	if ctx.Err() != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last, e.ended = report, e.now()
}

// Findings returns what is known: what the watch last saw of the ways back, and
// of everything else what the last examination found. ended is when that was,
// the zero time before the first.
func (e *Examiner) Findings() (all []Finding, ended time.Time) {
	report, ended := e.found()
	if e.watch == nil {
		return report.Findings, ended
	}
	all = e.watch.Findings()
	watched := map[string]bool{}
	for _, f := range all {
		watched[f.Target] = true
	}
	for _, f := range report.Findings {
		if f.Component != returnPath || !watched[f.Target] {
			all = append(all, f)
		}
	}
	return all, ended
}

// found returns the last examination.
func (e *Examiner) found() (Report, time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Report{Findings: slices.Clone(e.last.Findings)}, e.ended
}
