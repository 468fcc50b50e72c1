package command

import (
	"context"
	"time"

	"unproxy/gateway/supervise"
)

// reload reads the lists anew when that is asked for, and when their files have
// changed, for which it looks at every interval; 0 is never.
func (l *life) reload(ctx context.Context, interval time.Duration) {
	var look <-chan time.Time
	if interval > 0 {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.reloads:
			l.reloadNow("SIGHUP")
		case <-look:
			if l.run.Changed() {
				l.reloadNow("a file changed")
			}
		}
	}
}

// reloadNow reads the lists anew and tells of it. It may be called from any
// goroutine.
func (s *server) reloadNow(why string) error {
	s.tell(supervise.Reloading())
	done, err := s.run.Reload()
	for _, w := range done.Warnings {
		s.log.Warn().Str("hint", w.Hint).Msg(w.Message)
	}
	if err == nil {
		s.log.Info().Str("because", why).Int("lists", done.Lists).Int("rules", done.Rules).
			Msg("lists reloaded; flags are read at the start only")
		s.tell(supervise.Ready, supervise.Status(s.servingStatus()))
		return nil
	}
	problems := leaves(err)
	for _, e := range problems {
		s.log.Error().Str("error", oneLine(e.Error())).Str("hint", hintOf(e)).Msg("a list is broken")
	}
	s.log.Error().Str("because", why).Int("problems", len(problems)).Uint64("failed", s.run.Reloads().Failed).
		Msg("reload failed: the lists from before stay in force")
	s.tell(supervise.Ready, supervise.Status(s.servingStatus()+"; the last reload failed, the lists from before stay in force: "+oneLine(problems[0].Error())))
	return err
}
