package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestControl(t *testing.T) {
	var drained, reloaded int
	able := quiet()
	able.Drain = func() { drained++ }
	able.Reload = func(context.Context) error {
		if reloaded++; reloaded > 1 {
			return errors.New("lb.txt:3: no prefix")
		}
		return nil
	}
	var examined int
	able.Findings = func() (json.RawMessage, time.Time) { return json.RawMessage(`[]`), noon }
	able.Examine = func(context.Context) { examined++ }
	for _, tt := range []struct {
		config       Config
		method, path string
		code         int
		text         string
	}{
		{quiet(), "POST", "/-/drain", http.StatusNotImplemented, "error"},
		{quiet(), "POST", "/-/reload", http.StatusNotImplemented, "error"},
		{quiet(), "POST", "/-/examine", http.StatusNotImplemented, "error"},
		{able, "GET", "/-/examine", http.StatusMethodNotAllowed, ""},
		{able, "POST", "/-/examine", http.StatusOK, `{"findings":[],"examined":"2026-11-22T12:00:00Z"}`},
		{able, "GET", "/-/drain", http.StatusMethodNotAllowed, ""},
		{able, "GET", "/-/reload", http.StatusMethodNotAllowed, ""},
		{able, "POST", "/-/drain", http.StatusAccepted, `"draining":true`},
		{able, "POST", "/-/reload", http.StatusOK, `"reloaded":true`},
		{able, "POST", "/-/reload", http.StatusInternalServerError, "lb.txt:3"},
	} {
		w := ask(newServer(tt.config, nearby), tt.method, tt.path)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.text) {
			t.Errorf("%s %s: %d %s; want %d %s", tt.method, tt.path, w.Code, w.Body, tt.code, tt.text)
		}
	}
	if drained != 1 || reloaded != 2 || examined != 1 {
		t.Errorf("drained %d times, reloaded %d, examined %d; want 1, 2, 1", drained, reloaded, examined)
	}
}

// Profiles are served only if the configuration says so.
func TestProfiles(t *testing.T) {
	on := quiet()
	on.Profiles = true
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		if w := ask(newServer(on, nearby), "GET", path); w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("%s: %d", path, w.Code)
		}
		if w := ask(newServer(quiet(), nearby), "GET", path); w.Code != http.StatusNotFound {
			t.Errorf("%s without --pprof: %d", path, w.Code)
		}
	}
}

// A gateway with a stalled event loop is not healthy.
func TestHealthOfAStalledLoop(t *testing.T) {
	s, g := busy()
	if w := ask(s, "GET", "/healthz"); w.Code != http.StatusOK {
		t.Errorf("healthy: %d %s", w.Code, w.Body)
	}
	g.err = errors.New("stalled")
	if w := ask(s, "GET", "/healthz"); w.Code != http.StatusServiceUnavailable ||
		!strings.Contains(w.Body.String(), "stalled") {
		t.Errorf("stalled: %d %s", w.Code, w.Body)
	}
}
