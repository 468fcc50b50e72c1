package command

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"unproxy/gateway/supervise"
)

// teller tells systemd how the server fares. Any goroutine may.
type teller struct {
	notifier supervise.Notifier

	mu       sync.Mutex
	stopping bool // nothing that speaks of serving may follow
	silent   bool // another process is the service
	failed   bool // said so already
}

// tell tells systemd, if it listens. That it does not must harm nobody; it is
// logged once.
func (s *server) tell(assignments ...string) {
	t := &s.systemd
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent || t.stopping && speaksOfServing(assignments) {
		return
	}
	t.stopping = t.stopping || slices.Contains(assignments, supervise.Stopping)
	err := t.notifier.Tell(assignments...)
	if err != nil && !t.failed {
		s.log.Warn().Str("error", oneLine(err.Error())).Msg("systemd cannot be told how the service is")
	}
	t.failed = err != nil
}

func speaksOfServing(assignments []string) bool {
	return slices.ContainsFunc(assignments, func(a string) bool {
		return a == supervise.Ready || strings.HasPrefix(a, "RELOADING=")
	})
}

// silence ends what this process has to tell: another one is the service.
func (s *server) silence() {
	s.systemd.mu.Lock()
	defer s.systemd.mu.Unlock()
	s.systemd.silent = true
}

func (s *server) servingStatus() string {
	return fmt.Sprintf("serving on %s", plural(len(s.run.Bound()), "listener"))
}

// feedWatchdog tells systemd that all is well as long as every event loop comes
// round. A loop that hangs is told of here, and dealt with by systemd, which
// ends the process when it hears nothing.
func (s *server) feedWatchdog(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		alive := s.run.Alive()
		select {
		case <-alive:
		case <-time.After(every):
			s.log.Error().Str("after", every.String()).Msg("an event loop does not come round")
			select {
			case <-alive:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
		s.tell(supervise.Watchdog)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
