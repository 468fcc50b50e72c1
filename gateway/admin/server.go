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
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"unproxy/gateway/config"
	"unproxy/gateway/datagram"
	"unproxy/gateway/engine"
	"unproxy/gateway/readiness"
)

// The limits on one request. Answers are short; a reader that is slower than
// this has gone away.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10
	// closeTimeout is how long Close lets answers be finished.
	closeTimeout = time.Second
	// askTime is how long a request waits for the loops.
	askTime = 5 * time.Second
)

// errStuck is why a question to the loops was given up.
var errStuck = fmt.Errorf("an event loop does not answer within %v", askTime)

// Config is what an endpoint tells of. All of it may be asked from several
// goroutines.
type Config struct {
	// Version is the program's.
	Version Version
	// Gateway is the configuration of the gateway.
	Gateway *config.Config
	// Readiness is what /readyz asks.
	Readiness *readiness.State
	// Instance begins the ids of connections in the log.
	Instance string
	// Refusals is what the gateway's finished connections are noted in; nil
	// where they are not.
	Refusals *Refusals
	// LogDropped returns how many lines of the log were lost; nil is unknown.
	LogDropped func() uint64
	// Findings returns what is known to be wrong or well with this host, as a
	// list in JSON, and when all of it was last looked at, zero for never; nil
	// knows nothing.
	Findings func() (list json.RawMessage, examined time.Time)
	// Examine looks at the host anew, which may take seconds; nil cannot.
	Examine func(context.Context)
	// Drain has the gateway stop and let connections finish; it returns at
	// once. nil cannot.
	Drain func()
	// Reload reads anew what can be read while the gateway runs; nil cannot.
	Reload func(context.Context) error
	// Profiles serves profiles of the program, which cost time to make.
	Profiles bool
	// Now is the clock; nil is [time.Now].
	Now func() time.Time
}

// Version says which program this is.
type Version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
}

// Gateway is what an endpoint asks of a running gateway. [*gateway.Gateway] is
// one.
type Gateway interface {
	Bound() []config.Bound
	Counters() engine.Counters
	Reloads() config.ReloadState
	Datagrams() datagram.Counters
	Tallies(context.Context) ([]engine.ForwardTally, error)
	EachSession(context.Context, func(*engine.Session)) error
	Reset(ctx context.Context, id uint64) (found bool, err error)
}

// Server is a running endpoint.
type Server struct {
	config  Config
	now     func() time.Time
	started time.Time
	serving atomic.Pointer[Gateway]
	memory  memory
	http    http.Server
	served  chan error

	// The goroutine that samples what is counted.
	stop     context.CancelFunc
	stopping context.Context
	sampling sync.WaitGroup
}

// Serve starts to answer on l, which it closes in the end, and returns at once.
func Serve(l net.Listener, c Config) *Server {
	s := newServer(c, AddressOf(l))
	go func() {
		err := s.http.Serve(newNarrow(l, maxConnections))
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.served <- err
	}()
	return s
}

// newServer makes a server for requests that come to an address.
func newServer(c Config, at Address) *Server {
	s := &Server{config: c, now: c.Now, served: make(chan error, 1)}
	if s.now == nil {
		s.now = time.Now
	}
	s.started = s.now()
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.http = http.Server{
		Handler:           guarded(s.routes(), at),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
	return s
}

// Attach tells the endpoint of the gateway once there is one. It may be called
// once, and not after Close.
func (s *Server) Attach(g Gateway) {
	s.serving.Store(&g)
	s.sampling.Go(func() {
		ticker := time.NewTicker(sampleEvery)
		defer ticker.Stop()
		for {
			s.sample(g)
			select {
			case <-s.stopping.Done():
				return
			case <-ticker.C:
			}
		}
	})
}

// sample remembers what is counted now. If a loop does not answer, there is
// nothing to remember.
func (s *Server) sample(g Gateway) {
	ctx, cancel := context.WithTimeoutCause(s.stopping, askTime, errStuck)
	defer cancel()
	if tallies, err := g.Tallies(ctx); err == nil {
		s.memory.add(s.now(), byName(tallies))
	}
}

// gateway returns the gateway that was attached, or nil.
func (s *Server) gateway() Gateway {
	if g := s.serving.Load(); g != nil {
		return *g
	}
	return nil
}

// Failed receives the error of a listener that broke, and nil once Close was
// called; one value in all.
func (s *Server) Failed() <-chan error { return s.served }

// Close stops answering: what is being answered has a second to be finished.
func (s *Server) Close() {
	s.stop()
	s.sampling.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
}

// routes says who answers which request.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("GET /status.json", s.status)
	mux.HandleFunc("GET /connections.json", s.connections)
	mux.HandleFunc("DELETE /connections/{id}", s.cut)
	mux.HandleFunc("POST /-/drain", s.drain)
	mux.HandleFunc("POST /-/reload", s.reload)
	mux.HandleFunc("POST /-/examine", s.examine)
	addPage(mux)
	if s.config.Profiles {
		addProfiles(mux)
	}
	return mux
}

// healthz answers whether the gateway is alive: every event loop comes round.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	if g := s.gateway(); g != nil {
		ctx, cancel := context.WithTimeoutCause(r.Context(), askTime, errStuck)
		defer cancel()
		if _, err := g.Tallies(ctx); err != nil {
			writeProblem(w, http.StatusServiceUnavailable, err.Error())
			return
		}
	}
	writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
}

// readyAnswer is the answer of /readyz.
type readyAnswer struct {
	Ready   bool               `json:"ready"`
	Reasons []readiness.Reason `json:"reasons,omitempty"`
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	reasons := s.config.Readiness.Reasons()
	if len(reasons) > 0 {
		writeJSON(w, http.StatusServiceUnavailable, readyAnswer{Reasons: reasons})
		return
	}
	writeJSON(w, http.StatusOK, readyAnswer{Ready: true})
}

// problem is the answer to a request that failed.
type problem struct {
	Error string `json:"error"`
}

func writeProblem(w http.ResponseWriter, code int, what string) {
	writeJSON(w, code, problem{what})
}

// writeJSON answers with v. An error is that of a reader who went away.
func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}
