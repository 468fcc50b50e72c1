package engine

import "golang.org/x/sys/unix"

// wait collects the events that there are. When there are none it sleeps until
// one comes or a deadline is due, unless there is work left, or the last event
// was less than [Config.Spin] ago: then it returns, and the loop comes round.
//
// A loop that spins thus makes a whole turn for each look, and deadlines and the
// mailbox are served as ever. It neither blocks nor yields: each turn is a
// call, at which the Go runtime can stop it for the garbage collector or, after
// 10 ms, for another goroutine.
//
// A look that does not sleep is cheaper, for it keeps the scheduler out of it. It
// comes first after a turn that found several events: after others it would
// mostly find none.
func (l *loop) wait(events []unix.EpollEvent) int {
	timeout := 0
	if len(l.runQueue) == 0 && !l.hasMail.Load() && l.now >= l.spinUntil {
		timeout = l.wheel.wait(l.now)
	}
	n := 0
	if timeout == 0 || l.lastEvents > 1 {
		n = l.kernel.Wait(l.poller, events, 0)
	}
	if n == 0 && timeout != 0 {
		n = l.kernel.Wait(l.poller, events, timeout)
	}
	l.now = l.kernel.Now()
	if n > 0 {
		l.spinUntil = l.now + int64(l.engine.config.Spin)
	}
	l.lastEvents = n
	return n
}
