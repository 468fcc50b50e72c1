package doctor

import (
	"context"
	"slices"
	"sync"
	"time"
)

// maxAge is the time for which a [Cache] keeps its report: a run connects to every
// backend.
const maxAge = time.Minute

// Cache runs the checks on demand inside a running gateway and keeps the report.
// It runs no programs. Its methods are safe for concurrent use, but they block, so
// an event loop must not call them.
type Cache struct {
	host    Host
	subject Subject
	watch   *Watch // may be nil
	now     func() time.Time

	running sync.Mutex // held during a run

	mu    sync.Mutex
	last  Report
	ended time.Time
}

// NewCache returns an empty cache. w is the watch of the same gateway, or nil. now
// is the clock; nil is [time.Now].
func NewCache(h Host, s Subject, w *Watch, now func() time.Time) *Cache {
	if now == nil {
		now = time.Now
	}
	return &Cache{host: h.withoutPrograms(), subject: s, watch: w, now: now}
}

// Refresh runs the checks unless the last run ended less than a minute ago. It
// returns when the run has ended. It discards the report of a run that ctx
// interrupts.
func (c *Cache) Refresh(ctx context.Context) {
	c.running.Lock()
	defer c.running.Unlock()
	if _, ended := c.report(); !ended.IsZero() && c.now().Sub(ended) < maxAge {
		return
	}
	report := Run(ctx, c.host, c.subject)
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.ended = report, c.now()
}

// Findings returns the latest findings: the watch's about the return path, and
// those of the last run about everything else. ended is the time at which that run
// ended, or the zero time if there was none. The caller owns the slice.
func (c *Cache) Findings() (all []Finding, ended time.Time) {
	report, ended := c.report()
	if c.watch == nil {
		return report.Findings, ended
	}
	all = c.watch.Findings()
	watched := map[string]bool{}
	for _, f := range all {
		watched[f.Target] = true
	}
	for _, f := range report.Findings {
		if !watched[f.Target] || f.Component != returnPath && f.Code != TOAPromise {
			all = append(all, f)
		}
	}
	return all, ended
}

// report returns a copy of the last report and the time at which its run ended.
func (c *Cache) report() (Report, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Report{Findings: slices.Clone(c.last.Findings)}, c.ended
}
