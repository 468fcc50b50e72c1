package admin

import (
	"bytes"
	"net/http"
)

// addProbes adds the paths that load balancers and monitoring ask for. HAProxy's
// "option httpchk" uses the method OPTIONS unless it is told otherwise.
func (s *Server) addProbes(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("OPTIONS /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("OPTIONS /readyz", s.readyz)
	mux.Handle("GET /metrics", s.metrics())
}

// isProbe reports whether a request is for a path of [Server.addProbes].
func isProbe(r *http.Request) bool {
	switch r.URL.Path {
	case "/healthz", "/readyz", "/metrics":
		return true
	}
	return false
}

// isPlainProbe reports whether a request is for a probe and in HTTP/1.0 without a Host
// field, which no browser sends: the default of HAProxy's "option httpchk".
func isPlainProbe(r *http.Request) bool {
	return isProbe(r) && r.Host == "" && !r.ProtoAtLeast(1, 1)
}

// buffer keeps the answer of a handler, except for its header, until it is sent.
type buffer struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

func (b *buffer) WriteHeader(code int) { b.code = code }

func (b *buffer) Write(p []byte) (int, error) { return b.body.Write(p) }

func (b *buffer) send() {
	b.ResponseWriter.WriteHeader(b.code)
	b.ResponseWriter.Write(b.body.Bytes())
}
