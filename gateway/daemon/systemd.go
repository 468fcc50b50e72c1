package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"unproxy/gateway/config/value"
	"unproxy/gateway/supervise"
)

// systemd sends the service's state to systemd. Its methods may be called from any
// goroutine.
type systemd struct {
	log      *zerolog.Logger
	notifier *supervise.Notifier

	mu       sync.Mutex
	stopping bool // READY and RELOADING must not follow STOPPING
	silent   bool // another process is the service
	failed   bool // the failure is logged
}

// tell sends the assignments in one message. A failure has no effect on the service;
// the first of several in a row is logged.
func (s *systemd) tell(assignments ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent || s.stopping && mentionsServing(assignments) {
		return
	}
	s.stopping = s.stopping || slices.Contains(assignments, supervise.Stopping)
	err := s.notifier.Tell(assignments...)
	if err != nil && !s.failed {
		s.log.Warn().Str("error", oneLine(err)).Msg("sd_notify failed")
	}
	s.failed = err != nil
}

func mentionsServing(assignments []string) bool {
	return slices.ContainsFunc(assignments, func(a string) bool {
		return a == supervise.Ready || strings.HasPrefix(a, "RELOADING=")
	})
}

// silence drops all further messages: another process is the service.
func (s *systemd) silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = true
}

func (d *daemon) servingStatus() string {
	return fmt.Sprintf("serving on %s", value.Plural(len(d.gateway.Bound()), "listener"))
}

// watchdogShare is the number of messages that are sent in one watchdog interval;
// sd_watchdog_enabled(3) recommends two.
const watchdogShare = 3

// feedWatchdog sends a watchdog message every interval while all event loops answer.
// If one is stalled, it sends none, so that systemd kills the process.
func (d *daemon) feedWatchdog(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		alive := d.gateway.Alive()
		select {
		case <-alive:
		case <-time.After(interval):
			d.log.Error().Str("after", interval.String()).Msg("event loop is stalled")
			select {
			case <-alive:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
		d.systemd.tell(supervise.Watchdog)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
