package command

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/readiness"
	"unproxy/gateway/supervise"
)

// life is a server's course from its start to its end. One goroutine owns it,
// in [life.lead]; everybody else asks by a channel.
//
//	starting ─▶ serving ─▶ draining ─▶ ended
//	                └─(SIGUSR2)─▶ handed over, draining ─▶ ended
type life struct {
	*server
	signals <-chan os.Signal
	stop    context.CancelFunc // begins the drain
	reloads chan struct{}      // asks for a reload

	awaited  <-chan struct{} // serving, until that is closed
	told     int             // how often it was told to end
	deadline time.Time
	ticks    <-chan time.Time // while it drains

	successor *supervise.Child // that is to take over, once it is ready
	upgraded  chan error       // what came of that
	handed    bool             // it has taken over
}

func newLife(s *server, signals <-chan os.Signal, stop context.CancelFunc) *life {
	return &life{
		server: s, signals: signals, stop: stop,
		reloads:  make(chan struct{}, 1),
		upgraded: make(chan error, 1),
	}
}

// lead leads the server through its life until the gateway has ended.
func (l *life) lead(ended <-chan struct{}) {
	background, stop := context.WithCancel(context.Background())
	defer stop()
	started := l.run.Started()
	l.awaited = l.serving
	for {
		select {
		case <-ended:
			return
		case <-started:
			started = nil
			defer l.startWatch()()
			l.sayReady()
			go l.takeOver()
		case <-l.awaited:
			l.awaited = nil
			l.begin(background)
		case sig := <-l.signals:
			l.signal(sig)
		case err := <-l.upgraded:
			l.endUpgrade(err)
		case now := <-l.ticks:
			l.tell(supervise.Status(l.drainStatus(now)))
		}
	}
}

// takeOver waits until the process before this one leaves everything to it.
func (l *life) takeOver() {
	defer close(l.serving)
	if l.parent == nil {
		return
	}
	if err := l.parent.Ready(); err != nil {
		l.log.Warn().Str("error", usage.OneLine(err.Error())).Msg("the process before this one did not say that it leaves")
	}
	l.log.Info().Int("pid", os.Getpid()).Msg("took over from the process before")
}

// begin is the moment from which this process is the service.
func (l *life) begin(background context.Context) {
	l.removeSpare()
	l.ownAdmin()
	if l.told == 0 {
		l.tell(supervise.Ready, supervise.Status(l.servingStatus()))
	}
	interval, err := supervise.WatchdogInterval(os.Getenv, os.Getpid())
	if err != nil {
		l.log.Warn().Str("error", usage.OneLine(err.Error())).Msg("the watchdog is not fed")
	}
	if interval > 0 {
		go l.feedWatchdog(background, interval/3)
	}
	go l.reload(background, l.config.ReloadInterval)
}

func (l *life) signal(sig os.Signal) {
	switch sig {
	case syscall.SIGHUP:
		select {
		case l.reloads <- struct{}{}:
		default: // one is asked for already, and has not begun
		}
	case syscall.SIGUSR2:
		l.beginUpgrade()
	default:
		l.end(sig)
	}
}

// end begins the drain when it is told to for the first time. A signal after that
// cuts it short; a request to the admin endpoint does not, as it may be repeated.
// After an upgrade it drains already, which nobody told it to.
func (l *life) end(sig os.Signal) {
	if _, byRequest := sig.(asked); byRequest && l.draining() {
		return
	}
	l.told++
	active := l.active()
	if l.told > 1 {
		l.log.Warn().Str("signal", sig.String()).Int("active", active).Msg("drain cut short")
		l.run.Hurry()
		return
	}
	if l.handed {
		l.log.Info().Str("signal", sig.String()).Int("active", active).Msg("draining already, since another process took over")
		return
	}
	if l.successor != nil {
		l.successor.Kill()
	}
	delay, timeout := l.config.DrainDelay, l.config.DrainTimeout
	l.log.Info().Str("signal", sig.String()).Int("active", active).Str("delay", delay.String()).Str("timeout", timeout.String()).Msg("draining")
	l.readiness.Set(readiness.Draining, "it was told to stop: "+sig.String())
	l.drain(delay + timeout)
	l.tell(supervise.Stopping, supervise.ExtendTimeout(delay+timeout+drainGrace), supervise.Status(l.drainStatus(time.Now())))
	l.stop()
}

const (
	// drainGrace is what systemd is asked to wait beyond the drain.
	drainGrace = 5 * time.Second
	// statusEvery is how often it is told how the drain goes.
	statusEvery = time.Second
)

// drain notes that connections are cut after so long.
func (l *life) drain(after time.Duration) {
	l.deadline = time.Now().Add(after)
	l.ticks = time.Tick(statusEvery)
}

// draining says that no new connections are wanted.
func (l *life) draining() bool { return l.handed || l.told > 0 }

func (l *life) drainStatus(now time.Time) string {
	return fmt.Sprintf("draining: %s left, cut in %v at the latest",
		usage.Plural(l.active(), "connection"), max(0, l.deadline.Sub(now)).Round(time.Second))
}
