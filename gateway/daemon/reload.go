package daemon

import (
	"context"
	"time"

	"unproxy/gateway/config"
	"unproxy/gateway/supervise"
)

// reloadLoop reloads the address lists after SIGHUP, and when their files have
// changed. It polls the files every interval; 0 disables polling.
func (l *life) reloadLoop(ctx context.Context, interval time.Duration) {
	var poll <-chan time.Time
	if interval > 0 {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		poll = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.reloads:
			l.reload("SIGHUP")
		case <-poll:
			if l.gateway.Changed() {
				l.reload("a file changed")
			}
		}
	}
}

// reload reloads the address lists and reports the result. It may be called from any
// goroutine.
func (d *daemon) reload(because string) error {
	d.systemd.tell(supervise.Reloading())
	done, err := d.gateway.Reload()
	for _, w := range done.Warnings {
		withHint(d.log.Warn(), w.Hint).Msg(w.Message)
	}
	if err != nil {
		d.reloadFailed(because, err)
		return err
	}
	d.log.Info().Str("because", because).Int("lists", done.Lists).Int("rules", done.Rules).
		Msg("lists reloaded; flags are read at the start only")
	d.systemd.tell(supervise.Ready, supervise.Status(d.servingStatus()))
	return nil
}

// reloadFailed reports every problem of a failed reload.
func (d *daemon) reloadFailed(because string, err error) {
	problems := config.Leaves(err)
	for _, e := range problems {
		withHint(d.log.Error().Str("error", oneLine(e)), config.HintOf(e)).Msg("a list is broken")
	}
	d.log.Error().Str("because", because).Int("problems", len(problems)).
		Uint64("failed", d.gateway.Reloads().Failed).
		Msg("reload failed: the previous lists stay in force")
	d.systemd.tell(supervise.Ready, supervise.Status(d.servingStatus()+
		"; the last reload failed, the previous lists stay in force: "+oneLine(problems[0])))
}
