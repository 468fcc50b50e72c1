package daemon

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"unproxy/gateway/config"
	"unproxy/gateway/engine"
	"unproxy/gateway/readiness"
)

const (
	// pressureInterval is how often the limits are compared with what is in use.
	pressureInterval = time.Second
	// A limit is nearly reached from nearlyPercent on. The log says so again only after it
	// was below calmPercent.
	nearlyPercent = 90
	calmPercent   = 80
	// descriptorsPercent is nearlyPercent for the open files of the process. With all
	// connections in use they are close to that: the rest is held back.
	descriptorsPercent = 97
)

// usage is how much of a limit is in use.
type usage struct{ used, limit int64 }

func (u usage) percent() int64 {
	if u.limit <= 0 {
		return 0
	}
	return 100 * u.used / u.limit
}

func (u usage) full() bool { return u.limit > 0 && u.used >= u.limit }

// pressure watches the limits of the process. One goroutine uses it.
type pressure struct {
	*daemon
	told    map[string]bool // limits that the log has reported, by readiness word
	memory  retained
	release func(context.Context)
}

// watchPressure makes readiness and the log follow the limits, and gives memory back
// after a burst, until ctx is done.
func (d *daemon) watchPressure(ctx context.Context) {
	p := &pressure{daemon: d, told: map[string]bool{}, release: d.giveBack}
	ticker := time.NewTicker(pressureInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			counters := d.gateway.Counters()
			p.compare(&counters, openFiles())
			if p.memory.burstEnded(inUse(&counters, d.gateway.Datagrams().Flows)) {
				p.release(ctx)
			}
		}
	}
}

// compare updates readiness, and logs limits that are nearly reached.
func (p *pressure) compare(c *engine.Counters, files usage) {
	gateway := p.config.Gateway
	p.readiness.SetProblems(readiness.Connections, connectionProblems(gateway, c))
	buffers := usage{c.Buffered, int64(gateway.MaxBuffer)}
	var problems []readiness.Problem
	if buffers.percent() >= nearlyPercent {
		problems = streamProblems(gateway, fmt.Sprintf("slow readers hold %d of %d bytes (--max-buffer)", buffers.used, buffers.limit))
	}
	p.readiness.SetProblems(readiness.Buffers, problems)
	problems = nil
	if files.percent() >= descriptorsPercent {
		problems = streamProblems(gateway, fmt.Sprintf("%d of %d file descriptors are open", files.used, files.limit))
	}
	p.readiness.SetProblems(readiness.Descriptors, problems)
	p.tell(readiness.Connections, usage{int64(c.Active), int64(gateway.MaxConnections)})
	p.tell(readiness.Buffers, buffers)
}

// tell logs that a limit is nearly reached, and that it no longer is.
func (p *pressure) tell(limit string, u usage) {
	switch percent := u.percent(); {
	case percent >= nearlyPercent && !p.told[limit]:
		p.told[limit] = true
		p.log.Warn().Str("limit", limit).Int64("used", u.used).Int64("of", u.limit).Msg("limit nearly reached")
	case percent < calmPercent && p.told[limit]:
		p.told[limit] = false
		p.log.Info().Str("limit", limit).Int64("used", u.used).Int64("of", u.limit).Msg("limit no longer nearly reached")
	}
}

// connectionProblems returns the forwards whose own limit, or the common one, is reached or
// nearly reached.
func connectionProblems(c *config.Config, counters *engine.Counters) (all []readiness.Problem) {
	for i, f := range c.Forwards {
		if f.Datagrams || i >= len(counters.PerForward) {
			continue
		}
		worst := usage{int64(counters.Active), int64(c.MaxConnections)}
		own := usage{int64(counters.PerForward[i]), int64(f.MaxConnections)}
		if own.percent() > worst.percent() {
			worst = own
		}
		if worst.percent() < nearlyPercent {
			continue
		}
		detail := fmt.Sprintf("%d of %d connections are open", worst.used, worst.limit)
		if worst.full() {
			detail = fmt.Sprintf("all %d connections are open: new ones wait in the kernel's queue", worst.limit)
		}
		all = append(all, readiness.Problem{Forward: i, Detail: detail, Serves: !worst.full()})
	}
	return all
}

// streamProblems returns a problem of every TCP forward, which serves nevertheless.
func streamProblems(c *config.Config, detail string) (all []readiness.Problem) {
	for i, f := range c.Forwards {
		if !f.Datagrams {
			all = append(all, readiness.Problem{Forward: i, Detail: detail, Serves: true})
		}
	}
	return all
}

// openFiles returns the open files of the process, if the kernel says so: the size of
// /proc/self/fd, since Linux 6.2.
func openFiles() usage {
	info, err := os.Stat("/proc/self/fd")
	if err != nil {
		return usage{}
	}
	return usage{info.Size(), int64(Descriptors())}
}

const (
	// leastBurst is the memory that is worth giving back.
	leastBurst = 16 << 20
	// flowMemory is what a UDP flow takes, about.
	flowMemory = 1 << 10
)

// inUse returns the memory, in bytes, that connections and flows need now, about.
func inUse(c *engine.Counters, flows int) int64 {
	return c.Buffered + int64(c.Active)*engine.SessionSize + int64(flows)*flowMemory
}

// retained notices the end of a burst: memory that was in use and no longer is stays with
// the process until the next garbage collection, which may be far off, as an idle gateway
// allocates nothing.
type retained struct{ peak int64 }

// burstEnded takes the memory in use, and reports whether less than half of the peak is in
// use and the rest is worth giving back. Then the peak starts over.
func (r *retained) burstEnded(now int64) bool {
	r.peak = max(r.peak, now)
	if r.peak-now < leastBurst || now > r.peak/2 {
		return false
	}
	r.peak = now
	return true
}

// giveBack gives the memory of a burst back to the system. Collecting garbage stops no event
// loop for longer than a few microseconds.
func (d *daemon) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if d.gateway.GiveBack(ctx) == nil {
		debug.FreeOSMemory()
	}
}
