package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"
)

// examineTime is how long an examination of the host may take: less than an
// answer.
const examineTime = 20 * time.Second

// drain answers POST /-/drain: the gateway stops, as with SIGTERM. To ask again
// does nothing more.
func (s *Server) drain(w http.ResponseWriter, _ *http.Request) {
	if s.config.Drain == nil {
		writeProblem(w, http.StatusNotImplemented, "this gateway cannot be drained from here")
		return
	}
	s.config.Drain()
	writeJSON(w, http.StatusAccepted, map[string]bool{"draining": true})
}

// reload answers POST /-/reload.
func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if s.config.Reload == nil {
		writeProblem(w, http.StatusNotImplemented, "this gateway reads its configuration at the start only")
		return
	}
	if err := s.config.Reload(r.Context()); err != nil {
		writeProblem(w, http.StatusInternalServerError, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, map[string]bool{"reloaded": true})
}

// examine answers POST /-/examine.
func (s *Server) examine(w http.ResponseWriter, r *http.Request) {
	if s.config.Examine == nil || s.config.Findings == nil {
		writeProblem(w, http.StatusNotImplemented, "this gateway cannot examine its host")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), examineTime)
	defer cancel()
	s.config.Examine(ctx)
	if err := ctx.Err(); err != nil {
		writeProblem(w, http.StatusServiceUnavailable, fmt.Sprintf("the examination did not end within %v", examineTime))
		return
	}
	findings, examined := s.config.Findings()
	writeJSON(w, http.StatusOK, examination{findings, examined})
}

// examination is the answer of /-/examine, as in [Status].
type examination struct {
	Findings json.RawMessage `json:"findings"`
	Examined time.Time       `json:"examined"`
}

// addProfiles serves what go tool pprof asks for.
func addProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
