package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
	"unproxy/gateway/sandbox"
)

// Schema is the number of what docs/json.md describes, in the answers of /status.json and
// /connections.json. It grows if a field goes, or changes its type or meaning; fields may
// come without that.
const Schema = 1

// Status is the answer of /status.json: the state of a gateway at one time.
type Status struct {
	Schema        int       `json:"schema"` // [Schema]
	Version       Version   `json:"version"`
	PID           int       `json:"pid"`
	Time          time.Time `json:"time"` // of the answer
	Started       time.Time `json:"started"`
	UptimeSeconds float64   `json:"uptime_seconds"`
	// Ready and Reasons are the answer of /readyz. Problems of single forwards are
	// with these.
	Ready   bool               `json:"ready"`
	Reasons []readiness.Reason `json:"reasons,omitempty"`
	// Active is the number of open connections. Limit is the number at which
	// new connections wait in the kernel's queue; 0 means no limit.
	Active int `json:"active"`
	Limit  int `json:"limit"`
	// Holdings is what the open connections hold.
	Holdings HoldingsStatus `json:"holdings"`
	// Loops holds the number of open connections of each event loop.
	Loops []int `json:"loops"`
	// Rates and History are totals over all forwards.
	Rates    Rates           `json:"rates"`
	History  History         `json:"history"`
	Forwards []ForwardStatus `json:"forwards"`
	Trust    []TrustStatus   `json:"trust"`
	// Clients are the rules about clients. Bans is the number of bans, which
	// /bans.json lists.
	Clients []ClientList `json:"clients"`
	Bans    int          `json:"bans"`
	// Refusals are the latest refused connections, grouped by peer or client,
	// forward and reason. MissedRefusals is the number of connections that were not
	// added because too many were refused at a time.
	Refusals       []Refusal `json:"refusals"`
	MissedRefusals uint64    `json:"missed_refusals"`
	LogDropped     uint64    `json:"log_lines_dropped"`
	// Findings are the findings of the host checks, see docs/doctor.md; null
	// if there are none yet. Examined is the time of the last complete run.
	Findings json.RawMessage `json:"findings"`
	Examined time.Time       `json:"examined,omitzero"`
	// Sandbox is what this process has given up.
	Sandbox *sandbox.Report `json:"sandbox,omitempty"`
}

// ForwardStatus is one forward.
type ForwardStatus struct {
	// Name is the address to listen on, as the operator wrote it.
	Name string `json:"name"`
	// Listeners are the listening sockets of the forward, at most the first
	// 16. ListenerCount is the number of all of them.
	Listeners     []ListenerStatus `json:"listeners"`
	ListenerCount int              `json:"listener_count"`
	Transparent   bool             `json:"transparent"`
	TOA           bool             `json:"toa,omitempty"`
	// Ready is that of /readyz?forward=; Reasons are problems of this forward alone,
	// which it may have although it is ready.
	Ready   bool               `json:"ready"`
	Reasons []readiness.Reason `json:"reasons,omitempty"`
	// Backends are the backends of the forward, at most 16, those that are down
	// first. BackendsDown is the number of all that are down.
	Backends     []BackendStatus `json:"backends"`
	BackendsDown int             `json:"backends_down"`
	// Active is the number of open connections. The other counters are totals
	// since the start; Closed is by outcome. Local are those of Closed that had a
	// LOCAL header, such as health checks; Refused does not count them.
	Active        int               `json:"active"`
	Accepted      uint64            `json:"accepted"`
	Refused       uint64            `json:"refused"`
	Closed        map[string]uint64 `json:"closed"`
	Local         map[string]uint64 `json:"local"`
	BytesIn       uint64            `json:"bytes_in"`
	BytesOut      uint64            `json:"bytes_out"`
	PortFallbacks uint64            `json:"source_port_fallbacks"`
	Rates         Rates             `json:"rates"`
	History       History           `json:"history"`
}

// ListenerStatus is one listening socket and its backends.
type ListenerStatus struct {
	Name    string `json:"name"`
	Address string `json:"address"` // as bound
	Leads   string `json:"leads_to"`
}

// BackendStatus is one address of a backend.
type BackendStatus struct {
	// Backend is the address or the path, for a DNS name after the name.
	Backend string `json:"backend"`
	// Up is false if the last connection or check failed.
	Up bool `json:"up"`
	// Since is the time of the last change; absent if there was none.
	Since time.Time `json:"since,omitzero"`
	// LastError is why it is down.
	LastError string `json:"last_error,omitempty"`
}

// maxListeners is how many listeners and backends of a forward are listed.
const maxListeners = 16

// status answers GET /status.json.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := loopContext(r.Context())
	defer cancel()
	answer, err := s.describe(ctx)
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

// describe returns the current status.
func (s *Server) describe(ctx context.Context) (*Status, error) {
	now := s.now()
	report := s.report()
	answer := &Status{
		Schema:  Schema,
		Version: s.config.Version, PID: os.Getpid(),
		Time: now, Started: s.started, UptimeSeconds: now.Sub(s.started).Seconds(),
		Reasons: report.None(), Limit: s.config.Gateway.MaxConnections,
		Rates: s.recorder.rates(""), History: s.recorder.history(""),
		Loops: []int{}, Forwards: []ForwardStatus{}, Refusals: []Refusal{},
		Trust: trustStatus(s.config.Gateway.Forwards), Clients: clientLists(s.config.Gateway.Forwards),
	}
	answer.Ready = len(answer.Reasons) == 0
	if s.config.Refusals != nil {
		answer.Refusals, answer.MissedRefusals = s.config.Refusals.List()
	}
	if s.config.LogDropped != nil {
		answer.LogDropped = s.config.LogDropped()
	}
	if s.config.Findings != nil {
		answer.Findings, answer.Examined = s.config.Findings()
	}
	g := s.gateway()
	if g == nil {
		return answer, nil
	}
	answer.Bans = g.Bans().Len()
	if s.config.Sandbox != nil {
		answer.Sandbox = s.config.Sandbox()
	}
	counters := g.Counters()
	answer.Active, answer.Loops = counters.Active, counters.PerLoop
	tallies, err := g.Tallies(ctx)
	if err != nil {
		return nil, err
	}
	held, err := g.Holdings(ctx)
	if err != nil {
		return nil, err
	}
	answer.Holdings = holdingsStatus(held, &counters, s.config.Gateway)
	answer.Forwards = s.forwards(tallies, g.Bound(), report)
	addBackends(answer.Forwards, g.Backends())
	return answer, nil
}

// forwards returns the status of all forwards, with their first listeners and their
// readiness.
func (s *Server) forwards(
	tallies []record.ForwardTally, bound []forward.Bound, ready readiness.Report,
) []ForwardStatus {
	listeners := map[*forward.Forward][]ListenerStatus{}
	for _, b := range bound {
		if shown := listeners[b.Forward]; len(shown) < maxListeners {
			listeners[b.Forward] = append(shown, ListenerStatus{b.Listener.Name, b.Addr.String(), b.Listener.BackendText()})
		}
	}
	all := make([]ForwardStatus, len(tallies))
	for i := range tallies {
		t, f := &tallies[i], s.config.Gateway.Forwards[i]
		name := label(t.Name)
		all[i] = ForwardStatus{
			Name: name, ListenerCount: len(f.Listeners), Transparent: f.Transparent, TOA: f.TOA.On,
			Ready: ready.Ready(i), Reasons: ready.Forwards[i].Reasons,
			Active: t.Active, Accepted: t.Accepted,
			Refused: refused(&t.Tally), Closed: closedBy(&t.Tally), Local: localBy(&t.Tally),
			BytesIn: t.Bytes[record.In], BytesOut: t.Bytes[record.Out], PortFallbacks: t.PortFallbacks,
			Rates: s.recorder.rates(name), History: s.recorder.history(name),
			Listeners: append([]ListenerStatus{}, listeners[f]...), Backends: []BackendStatus{},
		}
	}
	return all
}

// addBackends adds the state of the backends to that of the forwards.
func addBackends(forwards []ForwardStatus, all []engine.BackendState) {
	slices.SortStableFunc(all, func(a, b engine.BackendState) int { return int(zeroOrOne(a.Up) - zeroOrOne(b.Up)) })
	for _, b := range all {
		if b.Index >= len(forwards) {
			continue
		}
		f := &forwards[b.Index]
		if !b.Up {
			f.BackendsDown++
		}
		if len(f.Backends) < maxListeners {
			f.Backends = append(f.Backends, BackendStatus{label(b.Backend), b.Up, b.Since, b.LastError})
		}
	}
}

// closedBy returns the number of closed connections by outcome, without zeros.
func closedBy(t *record.Tally) map[string]uint64 {
	counts := map[string]uint64{}
	for _, o := range record.Outcomes() {
		for _, n := range t.Closed[o] {
			if n > 0 {
				counts[o.String()] += n
			}
		}
	}
	return counts
}

// localBy returns the number of closed connections with a LOCAL header by outcome,
// without zeros.
func localBy(t *record.Tally) map[string]uint64 {
	counts := map[string]uint64{}
	for _, o := range record.Outcomes() {
		if n := t.Local[o]; n > 0 {
			counts[o.String()] = n
		}
	}
	return counts
}
