package daemon

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"unproxy/gateway/config/value"
	"unproxy/gateway/readiness"
	"unproxy/gateway/supervise"
)

// life is the state of a daemon from its start to its exit. The goroutine that runs
// [life.live] owns its fields; others reach it through channels.
type life struct {
	*daemon
	signals    <-chan os.Signal
	startDrain context.CancelFunc
	reloads    chan struct{} // requests for a reload; at most one is pending

	serving    bool // this process is the service
	stops      int  // number of stop requests
	deadline   time.Time
	drainTicks <-chan time.Time // nil unless the daemon drains

	successor  *supervise.Child // started by an upgrade, until it is ready or has failed
	upgraded   chan upgraded    // the result of that upgrade
	handedOver bool             // the successor serves
}

func newLife(d *daemon, signals <-chan os.Signal, startDrain context.CancelFunc) *life {
	return &life{
		daemon: d, signals: signals, startDrain: startDrain,
		reloads:  make(chan struct{}, 1),
		upgraded: make(chan upgraded, 1),
	}
}

// live handles all events until exit is closed.
func (l *life) live(exit <-chan struct{}) {
	background, cancel := context.WithCancel(context.Background())
	defer cancel()
	started := l.gateway.Started()
	var inCharge <-chan struct{} = l.inCharge
	for {
		select {
		case <-started:
			started = nil
			defer l.startSelfTest()()
			l.ready()
		case <-inCharge:
			inCharge = nil
			l.serve(background)
		case s := <-l.signals:
			l.signal(s)
		case request := <-l.stopRequests:
			l.stopOnce(request)
		case result := <-l.upgraded:
			l.finishUpgrade(result)
		case now := <-l.drainTicks:
			l.systemd.tell(supervise.Status(l.drainStatus(now)))
		case <-exit:
			return
		}
	}
}

// ready logs that connections are accepted. During an upgrade, it waits in the
// background until the previous process has left the service to this one.
func (l *life) ready() {
	l.logReady()
	go func() {
		defer close(l.inCharge)
		if l.parent == nil {
			return
		}
		err := l.parent.Ready(l.takeMessage)
		l.gateway.ServeFlows()
		if err != nil {
			l.log.Warn().Str("error", oneLine(err)).Msg("previous process did not confirm the handover")
		}
		l.log.Info().Int("pid", os.Getpid()).Int("flows", l.gateway.Datagrams().Flows).
			Msg("took over from the previous process")
	}()
}

// serve starts the tasks of the process in charge: systemd messages, the watchdog and
// reloads.
func (l *life) serve(background context.Context) {
	l.serving = true
	l.spare.removeFiles()
	l.endpoints.own()
	if l.parent != nil {
		if err := l.config.Gateway.Bans.Save(); err != nil {
			l.log.Error().Str("error", oneLine(err)).Msg("bans are not saved")
		}
	}
	if l.stops == 0 {
		l.systemd.tell(supervise.Ready, supervise.Status(l.servingStatus()))
	}
	interval, err := supervise.WatchdogInterval()
	if err != nil {
		l.log.Warn().Str("error", oneLine(err)).Msg("watchdog disabled")
	}
	if interval > 0 {
		go l.feedWatchdog(background, interval/watchdogShare)
	}
	go l.reloadLoop(background, l.config.Gateway.ReloadInterval)
	go l.watchPressure(background)
}

// signal handles a signal.
func (l *life) signal(s os.Signal) {
	switch s {
	case syscall.SIGHUP:
		select {
		case l.reloads <- struct{}{}:
		default: // a request is already pending
		}
	case syscall.SIGUSR2:
		l.upgrade()
	default:
		l.stop(s.String())
	}
}

// stopOnce is [life.stop], except that it does nothing during a drain: an HTTP client
// may repeat a request, which must not cut the drain short.
func (l *life) stopOnce(request string) {
	if !l.draining() {
		l.stop(request)
	}
}

// stop begins the drain; by is the signal or request. A second stop cuts the drain
// short. After an upgrade the daemon is already draining, so the first stop is only
// counted.
func (l *life) stop(by string) {
	l.stops++
	active := l.active()
	switch {
	case l.stops > 1:
		l.log.Warn().Str("signal", by).Int("active", active).Msg("drain cut short")
		l.gateway.Hurry()
		return
	case l.handedOver:
		l.log.Info().Str("signal", by).Int("active", active).
			Msg("already draining: another process took over")
		return
	}
	if l.successor != nil {
		l.successor.Kill()
	}
	delay, timeout := l.config.Gateway.DrainDelay, l.config.Gateway.DrainTimeout
	l.log.Info().Str("signal", by).Int("active", active).
		Str("delay", delay.String()).Str("timeout", timeout.String()).Msg("draining")
	l.readiness.Set(readiness.Draining, "stop requested: "+by)
	l.reportDrain(delay + timeout)
	l.systemd.tell(supervise.Stopping, supervise.ExtendTimeout(delay+timeout+drainGrace),
		supervise.Status(l.drainStatus(time.Now())))
	l.startDrain()
}

const (
	// drainGrace is the time that systemd is asked to wait after the end of the drain.
	drainGrace = 5 * time.Second
	// drainStatusInterval is how often the status line is updated during a drain.
	drainStatusInterval = time.Second
)

// reportDrain starts to report the status of the drain, which ends after longest at
// the latest.
func (l *life) reportDrain(longest time.Duration) {
	l.deadline = time.Now().Add(longest)
	l.drainTicks = time.Tick(drainStatusInterval)
}

// draining reports whether the daemon drains, after a stop or after an upgrade.
func (l *life) draining() bool { return l.handedOver || l.stops > 0 }

func (l *life) drainStatus(now time.Time) string {
	return fmt.Sprintf("draining: %s left, cut in %v at the latest",
		value.Plural(l.active(), "connection"), max(0, l.deadline.Sub(now)).Round(time.Second))
}
