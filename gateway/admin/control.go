package admin

import (
	"net/http"
	"net/http/pprof"
)

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

// addProfiles serves what go tool pprof asks for.
func addProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
