package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
)

// logListening logs the addresses on which the gateway listens.
func (d *daemon) logListening() {
	for _, l := range listening(d.gateway.Bound()) {
		d.log.Info().Str("forward", l.forward).Str("address", l.address).Msg("listening")
	}
}

// place is the address of a forward's listener, or of a range of ports.
type place struct{ forward, address string }

// listening returns the addresses of the listeners. A range of ports, which may have
// thousands of listeners, is one place.
func listening(bound []forward.Bound) []place {
	var all []place
	for len(bound) > 0 {
		f := bound[0].Forward
		n := slices.IndexFunc(bound, func(b forward.Bound) bool { return b.Forward != f })
		if n < 0 {
			n = len(bound)
		}
		all = append(all, places(bound[:n])...)
		bound = bound[n:]
	}
	return all
}

// places returns the addresses of one forward. Sockets from systemd are not a range,
// although they may share a name.
func places(bound []forward.Bound) []place {
	first, last := bound[0], bound[len(bound)-1]
	if len(bound) > 1 && first.Listener.Activation == "" {
		return []place{{first.Forward.Label(), fmt.Sprintf("%s-%d", first.Addr, last.Addr.Addr.Port())}}
	}
	var all []place
	for _, b := range bound {
		all = append(all, place{b.Listener.Name, b.Addr.String()})
	}
	return all
}

// logReady logs that connections are accepted, and the limits that apply.
func (d *daemon) logReady() {
	c := d.config.Gateway
	transparent, rules := false, 0
	for _, f := range c.Forwards {
		transparent = transparent || f.Transparent
		rules = max(rules, config.CountRules(f.Trust))
	}
	d.log.Info().Str("version", d.config.VersionLine).
		Int("forwards", len(c.Forwards)).Int("loops", c.Loops).Int("trust_rules", rules).
		Bool("transparent", transparent).Int("backlog", backlog()).
		Int("max_connections", c.MaxConnections).Int("udp_max_flows", c.MaxFlows).
		Int("max_buffer", c.MaxBuffer).Int("max_pipes", c.MaxPipes).Int64("memory_limit", runtimeLimit()).
		Int("pid", os.Getpid()).Msg("ready")
}

// logStopped logs the number of connections and flows, and how many the drain cut.
func (d *daemon) logStopped() {
	var accepted, flows, cut uint64
	tallies, _ := d.gateway.Tallies(context.Background()) // cannot fail: the loops have ended
	for i := range tallies {
		if d.config.Gateway.Forwards[i].Datagrams {
			flows += tallies[i].Accepted
		} else {
			accepted += tallies[i].Accepted
		}
		for _, n := range tallies[i].Closed[record.Drained] {
			cut += n
		}
	}
	d.log.Info().Uint64("accepted", accepted).Uint64("flows", flows).Uint64("cut", cut).Msg("stopped")
}

// notice logs an event that belongs to no connection.
func (d *daemon) notice(n engine.Notice) {
	d.shortage.note(n, &d.readiness)
	d.failing.note(n, d.config.Gateway.Forwards, &d.readiness)
	if n.Event == "backend_down" || n.Event == "backend_up" {
		d.noteBackends()
	}
	line := d.log.Warn()
	switch n.Event {
	case "resolved", "accept_resumed", "accept_recovered", "receive_recovered", "backend_up":
		line = d.log.Info()
	}
	line = line.Str("event", n.Event)
	if n.Forward != "" {
		line = line.Str("forward", n.Forward)
	}
	if n.Detail != "" {
		line = line.Str("detail", n.Detail)
	}
	if n.Err != nil {
		line = line.Str("error", oneLine(n.Err))
	}
	line.Msg(strings.ReplaceAll(n.Event, "_", " "))
}

// noteBackends makes readiness follow the backends: a forward with --backend-check none
// of whose backends answers cannot serve. Event loops call it, so the lock covers both
// the question and the answer.
func (d *daemon) noteBackends() {
	d.backends.Lock()
	defer d.backends.Unlock()
	var problems []readiness.Problem
	for _, i := range d.gateway.WithoutBackend() {
		problems = append(problems, readiness.Problem{Forward: i, Detail: "no backend answers"})
	}
	d.readiness.SetProblems(readiness.Backends, problems)
}

// shortage counts the event loops that cannot accept because descriptors or memory
// have run out. The gateway is not ready while there is one.
type shortage struct {
	mu    sync.Mutex
	loops int
}

// note records a notice. A loop reports the end of every shortage that it has
// reported.
func (s *shortage) note(n engine.Notice, r *readiness.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n.Event {
	case "accept_paused":
		s.loops++
		r.Set(readiness.Descriptors, n.Detail)
	case "accept_resumed":
		if s.loops--; s.loops == 0 {
			r.Clear(readiness.Descriptors)
		}
	}
}

// mostErrors is the number of joined errors that are written out.
const mostErrors = 3

// oneLine returns the text of an error without line breaks, for the log and for
// "systemctl status". It writes the first few of many joined errors and counts the
// others: thousands of listeners may fail at once.
func oneLine(err error) string {
	all := config.Leaves(err)
	var texts []string
	for _, e := range all[:min(len(all), mostErrors)] {
		texts = append(texts, value.OneLine(e.Error()))
	}
	if n := len(all) - mostErrors; n > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(texts, "; ")
}

// withHint adds the key "hint" to a line unless the hint is empty.
func withHint(line *zerolog.Event, hint string) *zerolog.Event {
	if hint == "" {
		return line
	}
	return line.Str("hint", hint)
}
