package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"
)

// examineTimeout is how long the host checks may take. It is less than
// answerTimeout, so that the client gets an answer.
const examineTimeout = 20 * time.Second

// drain answers POST /-/drain: the gateway drains and stops, as with SIGTERM.
// Further requests have no effect.
func (s *Server) drain(w http.ResponseWriter, _ *http.Request) {
	if s.config.Drain == nil {
		writeError(w, http.StatusNotImplemented, "this gateway does not offer draining")
		return
	}
	s.config.Drain()
	writeJSON(w, http.StatusAccepted, map[string]bool{"draining": true})
}

// reload answers POST /-/reload, after the reload.
func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if s.config.Reload == nil {
		writeError(w, http.StatusNotImplemented, "this gateway does not offer reloading")
		return
	}
	if err := s.config.Reload(r.Context()); err != nil {
		writeError(w, http.StatusInternalServerError, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, map[string]bool{"reloaded": true})
}

// examine answers POST /-/examine, after the host checks.
func (s *Server) examine(w http.ResponseWriter, r *http.Request) {
	if s.config.Examine == nil || s.config.Findings == nil {
		writeError(w, http.StatusNotImplemented, "this gateway does not offer host checks")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), examineTimeout)
	defer cancel()
	s.config.Examine(ctx)
	if err := ctx.Err(); err != nil {
		writeError(w, http.StatusServiceUnavailable, fmt.Sprintf("host checks did not finish within %v", examineTimeout))
		return
	}
	findings, examined := s.config.Findings()
	writeJSON(w, http.StatusOK, examineAnswer{findings, examined})
}

// examineAnswer is the answer of /-/examine. Its fields are those of [Status].
type examineAnswer struct {
	Findings json.RawMessage `json:"findings"`
	Examined time.Time       `json:"examined"`
}

// addProfiles adds the endpoints of go tool pprof.
func addProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", sameOrigin(pprof.Index))
	mux.HandleFunc("GET /debug/pprof/cmdline", sameOrigin(pprof.Cmdline))
	mux.HandleFunc("GET /debug/pprof/profile", sameOrigin(pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/symbol", sameOrigin(pprof.Symbol))
	mux.HandleFunc("POST /debug/pprof/symbol", sameOrigin(pprof.Symbol))
	mux.HandleFunc("GET /debug/pprof/trace", sameOrigin(pprof.Trace))
}
