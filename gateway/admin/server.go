// Package admin is what a gateway tells of itself over HTTP, to monitoring, to
// orchestrators and to its operator, and what it can be told there.
//
// It stands beside the data path and cannot hold it up: it has goroutines of
// its own, few connections, and a time limit on everything. It has neither
// passwords nor encryption: who can reach it is decided by where it listens.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"unproxy/gateway"
)

// The limits on one request. Answers are short; a reader that is slower than
// this has gone away.
const (
	headerTime = 5 * time.Second
	bodyTime   = 10 * time.Second
	answerTime = 30 * time.Second
	idleTime   = time.Minute
	maxHeader  = 16 << 10
	// closeTime is how long Close lets answers be finished.
	closeTime = time.Second
)

// Config is what an endpoint tells of.
type Config struct {
	// Readiness is what /readyz asks.
	Readiness *gateway.Readiness
}

// Server is a running endpoint.
type Server struct {
	http   http.Server
	served chan error
}

// Serve starts to answer on l, which it closes in the end, and returns at once.
func Serve(l net.Listener, c Config) *Server {
	s := &Server{served: make(chan error, 1)}
	s.http = http.Server{
		Handler:           handler(c),
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       bodyTime,
		WriteTimeout:      answerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
	}
	go func() {
		err := s.http.Serve(newNarrow(l, maxConnections))
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.served <- err
	}()
	return s
}

// Failed receives the error of a listener that broke, and nil once Close was
// called; one value in all.
func (s *Server) Failed() <-chan error { return s.served }

// Close stops answering: what is being answered has a second to be finished.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
}

// handler routes the requests.
func handler(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", c.readyz)
	return plainly(mux)
}

// plainly keeps answers out of caches, and from being taken for what they are
// not.
func plainly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// healthz answers that the process is alive: whoever reads this knows.
func healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready   bool               `json:"ready"`
	Reasons []gateway.NotReady `json:"reasons,omitempty"`
}

func (c Config) readyz(w http.ResponseWriter, _ *http.Request) {
	reasons := c.Readiness.Reasons()
	if len(reasons) > 0 {
		writeJSON(w, http.StatusServiceUnavailable, readiness{Reasons: reasons})
		return
	}
	writeJSON(w, http.StatusOK, readiness{Ready: true})
}

// writeJSON answers with v. An error is that of a reader who went away.
func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}
