package admin

import (
	"encoding/json"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"unproxy/gateway/config"
	"unproxy/gateway/readiness"
)

// ask sends a request to an endpoint, without a network.
func ask(s *Server, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

// quiet returns the configuration of an endpoint with nothing to report.
func quiet() Config {
	return Config{Gateway: &config.Config{}, Readiness: &readiness.State{}}
}

func TestReadyz(t *testing.T) {
	c := quiet()
	r, s := c.Readiness, newServer(c, nearby)
	w := ask(s, "GET", "/readyz")
	if w.Code != http.StatusOK || w.Body.String() != "{\"ready\":true}\n" {
		t.Errorf("ready: %d %s", w.Code, w.Body)
	}
	r.Set(readiness.Draining, "stop requested")
	r.Set(readiness.Starting, "")
	w = ask(s, "GET", "/readyz")
	const want = `{"ready":false,"reasons":[{"reason":"starting"},{"reason":"draining","detail":"stop requested"}]}` + "\n"
	if w.Code != http.StatusServiceUnavailable || w.Body.String() != want {
		t.Errorf("not ready: %d %s; want 503 %s", w.Code, w.Body, want)
	}
	r.Clear(readiness.Draining)
	r.Clear(readiness.Starting)
	if w = ask(s, "GET", "/readyz"); w.Code != http.StatusOK {
		t.Errorf("ready again: %d %s", w.Code, w.Body)
	}
}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		method, target string
		code           int
		want           any // the body as JSON; nil if it is not JSON
	}{
		{"GET", "/healthz", 200, map[string]any{"alive": true}},
		{"HEAD", "/healthz", 200, map[string]any{"alive": true}},
		{"POST", "/healthz", 405, nil},
		{"DELETE", "/readyz", 405, nil},
		{"GET", "/nothing", 404, nil},
	} {
		w := ask(newServer(quiet(), nearby), tt.method, tt.target)
		if w.Code != tt.code {
			t.Errorf("%s %s: %d %s; want %d", tt.method, tt.target, w.Code, w.Body, tt.code)
		}
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s %s: header %s: %q, want %q", tt.method, tt.target, name, got, want)
			}
		}
		var got any
		if json.Unmarshal(w.Body.Bytes(), &got); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s %s: %s; want %v", tt.method, tt.target, w.Body, tt.want)
		}
	}
}

// What the HTTP server cannot report to a client goes to ErrorLog, not to
// stderr.
func TestErrorLog(t *testing.T) {
	var lines strings.Builder
	c := quiet()
	c.ErrorLog = log.New(&lines, "", 0)
	c.Drain = func() { panic("broken") }
	l := open(t, Address{Path: filepath.Join(t.TempDir(), "admin.sock")})
	s := Serve(l, c)
	client := NewClient(Control, AddressOf(l))
	if _, err := client.http.Post("http://localhost/-/drain", "", nil); err == nil {
		t.Error("a panic was answered")
	}
	client.http.CloseIdleConnections()
	s.Close()
	if !strings.Contains(lines.String(), "panic serving") || !strings.Contains(lines.String(), "broken") {
		t.Errorf("ErrorLog has %q, want the panic", lines.String())
	}
}
