package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"time"

	"unproxy/gateway/config"
	"unproxy/gateway/engine"
	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
)

// Status is the answer of /status.json: what there is to know of a gateway at
// one moment.
type Status struct {
	Version       Version   `json:"version"`
	PID           int       `json:"pid"`
	Time          time.Time `json:"time"` // of the answer
	Started       time.Time `json:"started"`
	UptimeSeconds float64   `json:"uptime_seconds"`
	// Ready and Reasons are what /readyz says.
	Ready   bool               `json:"ready"`
	Reasons []readiness.Reason `json:"reasons,omitempty"`
	// Active is the number of connections that have not ended, Limit that at
	// which new ones wait in the kernel's queue; 0 is none.
	Active int `json:"active"`
	Limit  int `json:"limit"`
	// Loops has the number of connections of each event loop.
	Loops []int `json:"loops"`
	// Rates and History are of all forwards together.
	Rates    Rates           `json:"rates"`
	History  History         `json:"history"`
	Forwards []ForwardStatus `json:"forwards"`
	Trust    []TrustStatus   `json:"trust"`
	// Refusals are of the latest connections that were not served, grouped by
	// peer, forward and reason. MissedRefusals were too many at once to be
	// noted.
	Refusals       []Refusal `json:"refusals"`
	MissedRefusals uint64    `json:"missed_refusals"`
	LogDropped     uint64    `json:"log_lines_dropped"`
	// Findings are what is known to be wrong or well with this host, or null
	// where nothing was looked at; see docs/doctor.md. Examined is when all of
	// it was last looked at.
	Findings json.RawMessage `json:"findings"`
	Examined time.Time       `json:"examined,omitzero"`
}

// ForwardStatus is one forward.
type ForwardStatus struct {
	// Name is what was written to listen on.
	Name string `json:"name"`
	// Listeners are its listening sockets, of a range of ports the first few;
	// there are ListenerCount.
	Listeners     []ListenerStatus `json:"listeners"`
	ListenerCount int              `json:"listener_count"`
	Transparent   bool             `json:"transparent"`
	// What was counted since the start; Closed by outcome.
	Active        int               `json:"active"`
	Accepted      uint64            `json:"accepted"`
	Refused       uint64            `json:"refused"`
	Closed        map[string]uint64 `json:"closed"`
	BytesIn       uint64            `json:"bytes_in"`
	BytesOut      uint64            `json:"bytes_out"`
	PortFallbacks uint64            `json:"source_port_fallbacks"`
	Rates         Rates             `json:"rates"`
	History       History           `json:"history"`
}

// ListenerStatus is one listening socket and where it leads.
type ListenerStatus struct {
	Name    string `json:"name"`
	Address string `json:"address"` // that it is bound to
	Leads   string `json:"leads_to"`
}

// TrustStatus is one list of peers that may name a client.
type TrustStatus struct {
	// Forwards are the names of those that go by it.
	Forwards []string     `json:"forwards"`
	Rules    []RuleStatus `json:"rules"`
}

// RuleStatus is one rule and how many connections it admitted.
type RuleStatus struct {
	Rule   string `json:"rule"` // as it was written
	Prefix string `json:"prefix"`
	Origin string `json:"origin"`
	Note   string `json:"note,omitempty"`
	Hits   uint64 `json:"hits"`
}

// mostListeners is how many listeners of a forward are listed.
const mostListeners = 16

// status answers GET /status.json.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), askTime, errStuck)
	defer cancel()
	answer, err := s.describe(ctx)
	if err != nil {
		writeProblem(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

// describe puts the status together.
func (s *Server) describe(ctx context.Context) (*Status, error) {
	now := s.now()
	answer := &Status{
		Version: s.config.Version, PID: os.Getpid(), Time: now, Started: s.started, UptimeSeconds: now.Sub(s.started).Seconds(),
		Reasons: s.config.Readiness.Reasons(), Limit: s.config.Gateway.MaxConnections,
		Rates: s.memory.rates(""), History: s.memory.history(""),
		Loops: []int{}, Forwards: []ForwardStatus{}, Trust: trustStatus(s.config.Gateway.Forwards), Refusals: []Refusal{},
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
	counters := g.Counters()
	answer.Active, answer.Loops = counters.Active, counters.PerLoop
	tallies, err := g.Tallies(ctx)
	if err != nil {
		return nil, err
	}
	answer.Forwards = s.forwards(tallies, g.Bound())
	return answer, nil
}

// forwards describes the forwards and their first listeners.
func (s *Server) forwards(tallies []engine.ForwardTally, bound []config.Bound) []ForwardStatus {
	listeners := map[*engine.Forward][]ListenerStatus{}
	for _, b := range bound {
		if shown := listeners[b.Forward]; len(shown) < mostListeners {
			listeners[b.Forward] = append(shown, ListenerStatus{b.Listener.Name, b.Addr.String(), config.Leads(b.Listener)})
		}
	}
	all := make([]ForwardStatus, len(tallies))
	for i := range tallies {
		t, f := &tallies[i], s.config.Gateway.Forwards[i]
		name := label(t.Name)
		all[i] = ForwardStatus{
			Name: name, ListenerCount: len(f.Listeners), Transparent: f.Transparent,
			Active: t.Active, Accepted: t.Accepted, Refused: refused(&t.Tally), Closed: closedBy(&t.Tally),
			BytesIn: t.Bytes[engine.In], BytesOut: t.Bytes[engine.Out], PortFallbacks: t.PortFallbacks,
			Rates: s.memory.rates(name), History: s.memory.history(name), Listeners: listeners[f],
		}
	}
	return all
}

// closedBy counts ended connections by outcome; those that there were.
func closedBy(t *engine.Tally) map[string]uint64 {
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

// trustStatus lists the lists of peers, each once.
func trustStatus(forwards []*engine.Forward) []TrustStatus {
	all := []TrustStatus{}
	index := map[counting]int{}
	for _, f := range forwards {
		list, ok := f.Trust.(counting)
		if !ok {
			continue
		}
		i, known := index[list]
		if !known {
			i = len(all)
			index[list] = i
			all = append(all, TrustStatus{Rules: ruleStatus(list)})
		}
		all[i].Forwards = append(all[i].Forwards, label(f.Label()))
	}
	return all
}

func ruleStatus(list counting) []RuleStatus {
	all := []RuleStatus{}
	for _, r := range list.Hits() {
		all = append(all, RuleStatus{r.Text, r.Prefix.String(), r.Origin, r.Note, r.Hits})
	}
	return all
}
