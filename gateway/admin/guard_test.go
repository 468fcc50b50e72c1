package admin

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// A web page of another origin can make a browser send requests. With DNS rebinding
// it can make the browser take the endpoint for its own origin.
func TestGuard(t *testing.T) {
	loopback := Address{TCP: netip.MustParseAddrPort("127.0.0.1:9180")}
	public := Address{TCP: netip.MustParseAddrPort("10.0.0.5:9180")}
	requests := map[string]struct { // by method, or by what is asked for
		path string
		code int // if allowed
	}{
		"GET":     {"/connections.json", http.StatusOK},
		"POST":    {"/-/drain", http.StatusAccepted},
		"DELETE":  {"/connections/c0ffee-3", http.StatusNoContent},
		"PROBE":   {"/readyz", http.StatusOK},
		"METRICS": {"/metrics", http.StatusOK},
		"PROFILE": {"/debug/pprof/cmdline", http.StatusOK},
	}
	for _, tt := range []struct {
		name    string
		at      Address
		method  string
		host    string
		headers string // NAME: VALUE, separated by |
		allowed bool
	}{
		{"curl", loopback, "DELETE", "127.0.0.1:9180", "", true},
		{"curl by name", loopback, "DELETE", "localhost:9180", "", true},
		{"curl by name without a port", loopback, "GET", "LOCALHOST", "", true},
		{"IPv6", loopback, "DELETE", "[::1]:9180", "", true},
		{"IPv6 without a port", loopback, "GET", "[::1]", "", true},
		{"another loopback address", loopback, "GET", "127.0.0.2:9180", "", true},
		{"through a forwarded port", loopback, "DELETE", "localhost:1234", "", true},
		{"our own page", loopback, "DELETE", "127.0.0.1:9180",
			"Origin: http://127.0.0.1:9180|Sec-Fetch-Site: same-origin", true},
		{"our own page in an old browser", loopback, "POST", "127.0.0.1:9180", "Origin: http://127.0.0.1:9180", true},

		{"rebinding", loopback, "GET", "evil.example", "Sec-Fetch-Site: same-origin", false},
		{"rebinding with POST", loopback, "POST", "evil.example:9180",
			"Origin: http://evil.example:9180|Sec-Fetch-Site: same-origin", false},
		{"a name that begins with localhost", loopback, "GET", "localhost.evil.example", "", false},
		{"a name that looks like an address", loopback, "GET", "127.0.0.1.evil.example", "", false},
		{"no host", loopback, "GET", "", "", false},
		{"another address of the host", loopback, "GET", "10.0.0.5:9180", "", false},
		{"another site", loopback, "DELETE", "127.0.0.1:9180",
			"Origin: https://evil.example|Sec-Fetch-Site: cross-site", false},
		{"another port of the host", loopback, "POST", "127.0.0.1:9180",
			"Origin: http://127.0.0.1:8080|Sec-Fetch-Site: same-site", false},
		{"another site in an old browser", loopback, "POST", "127.0.0.1:9180", "Origin: https://evil.example", false},
		{"a sandboxed page", loopback, "POST", "127.0.0.1:9180", "Origin: null", false},

		{"HAProxy's default form", loopback, "PROBE HTTP/1.0", "", "", true},
		{"a scrape in HTTP/1.0", loopback, "METRICS HTTP/1.0", "", "", true},
		{"HTTP/1.0 for anything else", loopback, "GET HTTP/1.0", "", "", false},
		{"an empty host in HTTP/1.1", loopback, "PROBE", "", "", false},
		{"rebinding for a probe", loopback, "PROBE HTTP/1.0", "evil.example", "", false},
		{"go tool pprof", loopback, "PROFILE", "127.0.0.1:9180", "", true},
		{"a profile, typed", loopback, "PROFILE", "127.0.0.1:9180", "Sec-Fetch-Site: none", true},
		{"a profile for another site", loopback, "PROFILE", "127.0.0.1:9180", "Sec-Fetch-Site: cross-site", false},
		{"a profile for another port", loopback, "PROFILE", "127.0.0.1:9180", "Sec-Fetch-Site: same-site", false},
		{"a profile for another site over a unix socket", nearby, "PROFILE", "x", "Sec-Fetch-Site: cross-site", false},
		{"a profile in HTTP/1.0", loopback, "PROFILE HTTP/1.0", "", "", false},

		{"unix socket, any host", nearby, "DELETE", "unproxy", "", true},
		{"public address, any name", public, "DELETE", "gateway.internal:9180", "", true},
		{"another site on a public address", public, "DELETE", "gateway.internal:9180",
			"Origin: https://evil.example|Sec-Fetch-Site: cross-site", false},
	} {
		whole, g := crowd()
		drained := false
		whole.config.Drain = func() { drained = true }
		whole.config.Profiles = true
		s := newServer(whole.config, tt.at)
		s.attached.Store(whole.attached.Load())
		what, version, _ := strings.Cut(tt.method, " ")
		method := what
		if what != "POST" && what != "DELETE" {
			method = "GET"
		}
		r := httptest.NewRequest(method, requests[what].path, nil)
		r.Host = tt.host
		if version != "" {
			r.Proto, r.ProtoMajor, r.ProtoMinor = version, 1, 0
		}
		for _, h := range strings.Split(tt.headers, "|") {
			if name, value, ok := strings.Cut(h, ": "); ok {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		want := http.StatusForbidden
		if tt.allowed {
			want = requests[what].code
		}
		if w.Code != want {
			t.Errorf("%s: %s, host %q, %s: %d %s; want %d",
				tt.name, tt.method, tt.host, tt.headers, w.Code, w.Body, want)
		}
		if acted := drained || len(g.reset) > 0; acted != (tt.allowed && method != "GET") {
			t.Errorf("%s: the request took effect: %v", tt.name, acted)
		}
	}
}
