// Package admin is the gateway's HTTP endpoint for monitoring, orchestrators and
// operators: health, metrics, a status page, and control. docs/operations.md
// describes its paths.
//
//	l, err := admin.Listen(admin.Control, address)
//	...
//	s := admin.Serve(l, admin.Config{Gateway: config, Readiness: &readiness})
//	defer s.Close()
//	s.Attach(gateway) // once it is there
//
// The endpoint does not affect the data path: it has its own goroutines, few
// connections, and time limits on every request. It has neither authentication
// nor encryption: its address decides who can reach it.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"unproxy/gateway/ban"
	"unproxy/gateway/config"
	"unproxy/gateway/datagram"
	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
	"unproxy/gateway/sandbox"
)

// The limits on a request. Answers are short, so a client that takes longer is
// gone.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second
	idleTimeout   = 10 * time.Second
	maxHeader     = 16 << 10 // bytes
	// closeTimeout is how long Close waits for answers in progress.
	closeTimeout = time.Second
	// loopTimeout is how long a request waits for the event loops.
	loopTimeout = 5 * time.Second
)

// loopContext returns a context for a call that waits for the event loops. Its
// cause says that a loop is stalled.
func loopContext(parent context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(parent, loopTimeout,
		fmt.Errorf("event loop is stalled: no answer within %v", loopTimeout))
}

// Config is what an endpoint serves. Gateway and Readiness are required. Functions
// are called from several goroutines at a time.
type Config struct {
	// Kind is what is served. [Probes] needs Version, Gateway, Readiness,
	// LogDropped and ErrorLog alone.
	Kind Kind
	// Version is the version of the program.
	Version Version
	// Gateway is the configuration of the gateway. The endpoint only reads it.
	Gateway *config.Config
	// Readiness is the source of /readyz.
	Readiness *readiness.State
	// Instance is the prefix of connection IDs, see [record.AppendID].
	Instance string
	// Refusals has the refused connections that the status lists; nil lists
	// none. The caller adds the gateway's finished connections to it.
	Refusals *Refusals
	// LogDropped returns the number of lost log lines; nil means 0, and no
	// metric.
	LogDropped func() uint64
	// ErrorLog takes errors that the HTTP server cannot report to a client,
	// such as panics; nil means the standard logger.
	ErrorLog *log.Logger
	// Findings returns the findings of the host checks as a JSON list, and the
	// time of the last complete run, zero if there was none. nil means that
	// there are no findings.
	Findings func() (list json.RawMessage, examined time.Time)
	// Examine runs the host checks, which may take seconds. nil means that the
	// endpoint does not offer it, as for Drain and Reload.
	Examine func(context.Context)
	// Sandbox returns what the process has given up; nil shows nothing.
	Sandbox func() *sandbox.Report
	// Drain makes the gateway drain and stop. It returns at once.
	Drain func()
	// Reload reloads the address lists. It returns after the reload.
	Reload func(context.Context) error
	// Profiles adds /debug/pprof/. Taking a profile costs CPU time.
	Profiles bool
	// Now is the clock; nil means [time.Now].
	Now func() time.Time
}

// Version is the version of the program.
type Version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source
	Go       string `json:"go"`                 // of the compiler
}

// Gateway is a running gateway. [*gateway.Gateway] implements it. Methods may be
// called from several goroutines; those with a context wait for the event loops.
type Gateway interface {
	Bound() []forward.Bound
	Counters() engine.Counters
	Reloads() config.ReloadState
	Datagrams() datagram.Counters
	Backends() []engine.BackendState
	Tallies(context.Context) ([]record.ForwardTally, error)
	EachSession(context.Context, func(*engine.Session)) error
	Holdings(context.Context) (engine.Holdings, error)
	Reset(ctx context.Context, id uint64) (found bool, err error)
	Bans() *ban.List
	CutClients(context.Context, netip.Prefix) (cut int, err error)
}

// Server is a running endpoint. Its methods may be called from any goroutine.
type Server struct {
	config   Config
	now      func() time.Time
	started  time.Time
	attached atomic.Pointer[Gateway]
	recorder recorder
	http     http.Server
	failed   chan error

	// The goroutine of Attach, which samples the counters. stop ends it, and the
	// query of the event loops that it waits for.
	stop     context.CancelFunc
	stopping context.Context
	sampling sync.WaitGroup
}

// Serve starts to serve requests on l and returns at once. It takes ownership of l.
// The caller must call [Server.Close].
func Serve(l net.Listener, c Config) *Server {
	s := newServer(c, AddressOf(l))
	go func() {
		err := s.http.Serve(newSlots(l, maxConnections))
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.failed <- err
	}()
	return s
}

// newServer returns a server for an endpoint at an address. It does not listen.
func newServer(c Config, at Address) *Server {
	s := &Server{config: c, now: c.Now, failed: make(chan error, 1)}
	if s.now == nil {
		s.now = time.Now
	}
	s.started = s.now()
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.http = http.Server{
		Handler:           withHeader(inSlots(s.handler(at))),
		ConnContext:       withConn,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          c.ErrorLog,
	}
	return s
}

// Attach gives the endpoint its gateway. Until then the endpoint answers without
// connections and forwards. Attach may be called once, and not after Close.
func (s *Server) Attach(g Gateway) {
	s.attached.Store(&g)
	if s.config.Kind == Probes {
		return // it shows no rates
	}
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

// sample records the current counters. If an event loop does not answer, it records
// nothing.
func (s *Server) sample(g Gateway) {
	ctx, cancel := loopContext(s.stopping)
	defer cancel()
	if tallies, err := g.Tallies(ctx); err == nil {
		s.recorder.add(s.now(), byName(tallies))
	}
}

// gateway returns the attached gateway, or nil.
func (s *Server) gateway() Gateway {
	if g := s.attached.Load(); g != nil {
		return *g
	}
	return nil
}

// Failed returns a channel that receives one value: the error of the listener if it
// fails, or nil after Close.
func (s *Server) Failed() <-chan error { return s.failed }

// Close stops the server and closes its listener. Answers in progress have a second
// to finish.
func (s *Server) Close() {
	s.stop()
	s.sampling.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
}

// handler returns the handler of all paths of the endpoint's kind.
func (s *Server) handler(at Address) http.Handler {
	mux := http.NewServeMux()
	s.addProbes(mux)
	if s.config.Kind == Probes {
		return mux
	}
	mux.HandleFunc("GET /status.json", s.status)
	mux.HandleFunc("GET /connections.json", s.connections)
	mux.HandleFunc("DELETE /connections/{id}", s.cut)
	s.addBans(mux)
	mux.HandleFunc("POST /-/drain", s.drain)
	mux.HandleFunc("POST /-/reload", s.reload)
	mux.HandleFunc("POST /-/examine", s.examine)
	addPage(mux)
	if s.config.Profiles {
		addProfiles(mux)
	}
	return guarded(mux, at)
}

// healthz answers GET /healthz: whether every event loop makes progress.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	if g := s.gateway(); g != nil {
		ctx, cancel := loopContext(r.Context())
		defer cancel()
		if _, err := g.Tallies(ctx); err != nil {
			writeError(w, http.StatusServiceUnavailable, err.Error())
			return
		}
	}
	writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
}

// parameters returns the parameters of a request. One of another name, one that is given
// twice or a malformed one is an error: without it the request would mean something else.
func parameters(r *http.Request, names ...string) (url.Values, error) {
	all, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	for name, values := range all {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("unknown parameter %.120q; use %s", name, strings.Join(names, ", "))
		}
		if len(values) > 1 {
			return nil, fmt.Errorf("parameter %q appears %d times", name, len(values))
		}
	}
	return all, nil
}

// errorAnswer is the answer to a request that failed.
type errorAnswer struct {
	Error string `json:"error"`
}

func writeError(w http.ResponseWriter, code int, message string) {
	writeJSON(w, code, errorAnswer{message})
}

// writeJSON answers with v. It ignores errors: they mean that the client is gone.
func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}
