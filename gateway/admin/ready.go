package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
)

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready bool `json:"ready"`
	// Reasons say why it is not ready; none if it is.
	Reasons []readiness.Reason `json:"reasons,omitempty"`
	// Degraded are the forwards with a problem of their own, among those that were
	// asked about.
	Degraded []DegradedForward `json:"degraded,omitempty"`
}

// DegradedForward is a forward with a problem of its own.
type DegradedForward struct {
	Forward string `json:"forward"` // its name in metrics
	// Ready reports whether it can serve all clients nevertheless, for example with
	// another backend.
	Ready   bool               `json:"ready"`
	Reasons []readiness.Reason `json:"reasons"`
}

// ReadinessQuery says what /readyz is asked. The zero value asks whether any forward
// can serve.
type ReadinessQuery struct {
	// Forward is the name of a forward or of one of its listeners; "" is all
	// forwards.
	Forward string
	// All asks whether nothing is degraded.
	All bool
}

// encode returns the query as the part of a URL from the question mark on.
func (q ReadinessQuery) encode() string {
	values := url.Values{}
	if q.Forward != "" {
		values.Set("forward", q.Forward)
	}
	if q.All {
		values.Set("all", "1")
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}

// parseReadinessQuery parses the parameters forward and all.
func parseReadinessQuery(r *http.Request) (q ReadinessQuery, err error) {
	values, err := parameters(r, "forward", "all")
	if err != nil {
		return q, err
	}
	name, all := values.Get("forward"), values.Get("all")
	if name == "" && values.Has("forward") {
		return q, errors.New("forward= has no name")
	}
	if all != "0" && all != "1" && values.Has("all") {
		return q, fmt.Errorf("all=%.120q is neither 0 nor 1", all)
	}
	return ReadinessQuery{Forward: name, All: all == "1"}, nil
}

// readyz answers GET /readyz: whether the gateway, or one of its forwards, is ready
// for new connections.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	q, err := parseReadinessQuery(r)
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	answer, known := s.readiness(q)
	if !known {
		writeError(w, http.StatusNotFound, unknownForward(q.Forward, s.config.Gateway.Forwards))
		return
	}
	code := http.StatusOK
	if !answer.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, answer)
}

// readiness answers a query. known is false if the forward is not.
func (s *Server) readiness(q ReadinessQuery) (answer Readiness, known bool) {
	forwards := s.config.Gateway.Forwards
	var asked []int
	for i, f := range forwards {
		if q.Forward == "" || named(f, q.Forward) {
			asked = append(asked, i)
		}
	}
	if q.Forward != "" && len(asked) == 0 {
		return Readiness{}, false
	}
	report := s.report().For(asked)
	switch {
	case q.All:
		answer.Reasons = report.Impaired()
	case q.Forward != "":
		answer.Reasons = report.NotAll()
	default:
		answer.Reasons = report.None()
	}
	answer.Ready = len(answer.Reasons) == 0
	for i, f := range report.Forwards {
		if f.Degraded() {
			name := label(forwards[asked[i]].Label())
			answer.Degraded = append(answer.Degraded, DegradedForward{name, f.Serves, f.Reasons})
		}
	}
	return answer, true
}

// report returns the current readiness of the gateway and its forwards.
func (s *Server) report() readiness.Report {
	return s.config.Readiness.Report(len(s.config.Gateway.Forwards))
}

// named reports whether a name is that of a forward: its name in metrics, or what
// it listens on, as configured: a range of ports, or one of its listeners.
func named(f *forward.Forward, name string) bool {
	return name == f.Label() || name == rangeName(f.Listeners) ||
		slices.ContainsFunc(f.Listeners, func(l forward.Listener) bool { return l.Name == name })
}

// rangeName returns the name of the listeners of a range of ports as it is configured,
// such as ":3000-3999"; "" if there is one listener.
func rangeName(all []forward.Listener) string {
	if len(all) < 2 {
		return ""
	}
	last := all[len(all)-1].Name
	return all[0].Name + "-" + last[strings.LastIndexByte(last, ':')+1:]
}

// mostNames is how many forwards an error lists.
const mostNames = 100

// unknownForward is the error of a query for a forward that is not there.
func unknownForward(name string, all []*forward.Forward) string {
	var known []string
	for _, f := range all {
		n := f.Name
		if n == "" {
			n = rangeName(f.Listeners)
		}
		if n == "" {
			n = f.Label()
		}
		if n = label(n); !slices.Contains(known, n) {
			known = append(known, n)
		}
	}
	text := fmt.Sprintf("unknown forward %.120q; known: ", name)
	if more := len(known) - mostNames; more > 0 {
		return text + strings.Join(known[:mostNames], ", ") + fmt.Sprintf(", and %d more", more)
	}
	return text + strings.Join(known, ", ")
}
