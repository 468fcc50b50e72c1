package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/ban"
)

func TestBans(t *testing.T) {
	s, g := busy()
	for _, tt := range []struct {
		method, query string
		code          int
		want          string
	}{
		{"POST", "prefix=203.0.113.9&for=1h&reason=two+words", http.StatusOK,
			`{"prefix":"203.0.113.9/32","since":"2026-11-22T12:00:00Z","until":"2026-11-22T13:00:00Z","reason":"two words","hits":0,"cut":0}`},
		{"POST", "prefix=203.0.113.9/32&cut=0", http.StatusOK, `"until"`}, // it has none any more: see below
		{"POST", "prefix=::ffff:198.51.100.0/120&cut=1", http.StatusOK, `"cut":3`},
		{"POST", "prefix=2001:db8::/64", http.StatusOK, `"prefix":"2001:db8::/64"`},
		{"POST", "", http.StatusBadRequest, "is not a prefix or an address"},
		{"POST", "prefix=203.0.113.9/24", http.StatusBadRequest, "write 203.0.113.0/24 for the network"},
		{"POST", "prefix=example.com", http.StatusBadRequest, "names are not resolved"},
		{"POST", "prefix=0.0.0.0/0", http.StatusBadRequest, "would ban every client"},
		{"POST", "prefix=fe80::1%25eth0", http.StatusBadRequest, "contains a zone"},
		{"POST", "prefix=203.0.113.9:80", http.StatusBadRequest, "contains a port"},
		{"POST", "prefix=203.0.113.8&for=1", http.StatusBadRequest, "is not a duration"},
		{"POST", "prefix=203.0.113.8&for=-1s", http.StatusBadRequest, "is not a duration"},
		{"POST", "prefix=203.0.113.8&for=100000h", http.StatusBadRequest, "is not a duration"},
		{"POST", "prefix=203.0.113.8&cut=yes", http.StatusBadRequest, "is not 0 or 1"},
		{"POST", "prefix=203.0.113.8&reason=%1b", http.StatusBadRequest, "not printable"},
		{"POST", "prefix=203.0.113.8&force=1", http.StatusBadRequest, "unknown parameter"},
		{"POST", "prefix=203.0.113.8&prefix=203.0.113.7", http.StatusBadRequest, `parameter \"prefix\" appears 2 times`},
		{"DELETE", "prefix=198.51.100.7", http.StatusOK, `{"removed":false,"covered_by":["198.51.100.0/24"]}`},
		{"DELETE", "prefix=198.51.100.0/24", http.StatusOK, `{"removed":true,"covered_by":[]}`},
		{"DELETE", "prefix=198.51.100.0/24", http.StatusOK, `{"removed":false,"covered_by":[]}`},
		{"DELETE", "prefix=198.51.100", http.StatusBadRequest, "is not a prefix"},
		{"DELETE", "prefix=198.51.100.0/24&all=1", http.StatusBadRequest, "unknown parameter"},
		{"GET", "prefix=203.0.113.9", http.StatusMethodNotAllowed, ""},
	} {
		w := ask(s, tt.method, "/bans?"+tt.query)
		found := strings.Contains(w.Body.String(), tt.want)
		if tt.want == `"until"` {
			found = !found
		}
		if w.Code != tt.code || !found {
			t.Errorf("%s %s: %d %s; want %d %s", tt.method, tt.query, w.Code, w.Body, tt.code, tt.want)
		}
	}
	if len(g.cut) != 1 || g.cut[0] != netip.MustParsePrefix("198.51.100.0/24") {
		t.Errorf("cut %v", g.cut)
	}
	w := ask(s, "GET", "/bans.json")
	var got Bans
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Limit != ban.Most || len(got.Bans) != 2 ||
		got.Bans[0].Prefix != "203.0.113.9/32" || got.Bans[1].Prefix != "2001:db8::/64" {
		t.Errorf("%v: %s", err, w.Body)
	}
}

// A request of which a part cannot be read changes nothing: the part that is left could
// mean another ban.
func TestMalformedBans(t *testing.T) {
	for _, tt := range []struct{ method, query, want string }{
		{"POST", "prefix=192.0.2.1&for=1h%zz", "invalid URL escape"},
		{"POST", "prefix=192.0.2.1;for=1h", "invalid semicolon separator"},
		{"POST", "prefix=192.0.2.1&cut=1&cut=1", `parameter \"cut\" appears 2 times`},
		{"DELETE", "prefix=198.51.100.0/24&prefix=%zz", "invalid URL escape"},
		{"DELETE", "prefix=198.51.100.0/24&a;b", "invalid semicolon separator"},
		{"DELETE", "prefix=198.51.100.0/24&prefix=192.0.2.1", `parameter \"prefix\" appears 2 times`},
	} {
		s, g := busy()
		held := netip.MustParsePrefix("198.51.100.0/24")
		if _, err := g.Bans().Add(ban.Ban{Prefix: held}); err != nil {
			t.Fatal(err)
		}
		w := ask(s, tt.method, "/bans?"+tt.query)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s: %d %s; want 400 %s", tt.method, tt.query, w.Code, w.Body, tt.want)
		}
		if all := g.Bans().All(); len(all) != 1 || all[0].Prefix != held || len(g.cut) != 0 {
			t.Errorf("%s %s: bans %v, cut %v", tt.method, tt.query, all, g.cut)
		}
	}
}

// A web page of another origin can neither ban nor unban.
func TestBansAreGuarded(t *testing.T) {
	s, g := busy()
	for _, method := range []string{"POST", "DELETE"} {
		r := httptest.NewRequest(method, "/bans?prefix=203.0.113.9", nil)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || g.Bans().Len() != 0 {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
	}
	probes := quiet()
	probes.Kind = Probes
	for _, path := range []string{"/bans.json", "/bans?prefix=203.0.113.9"} {
		if w := ask(newServer(probes, nearby), "POST", path); w.Code != http.StatusNotFound {
			t.Errorf("%s on the health endpoint: %d", path, w.Code)
		}
	}
}

// A ban that holds but is not complete is an error that says so.
func TestBanIsNotComplete(t *testing.T) {
	s, g := busy()
	path := filepath.Join(t.TempDir(), "missing", "bans")
	var err error
	if g.bans, err = ban.Open(path, time.Now); err != nil {
		t.Fatal(err)
	}
	w := ask(s, "POST", "/bans?prefix=203.0.113.9")
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "the ban is in force, but: write ban file "+path) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = ask(s, "DELETE", "/bans?prefix=203.0.113.9")
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "the ban has ended, but: write ban file") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	g.bans, g.err = nil, errors.New("stalled")
	w = ask(s, "POST", "/bans?prefix=203.0.113.9&cut=1")
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "connections may go on: stalled") || g.Bans().Len() != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// While another process takes over, the client repeats its request until that process
// answers.
func TestClientRepeatsChanges(t *testing.T) {
	frozen := 2
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if frozen--; frozen >= 0 {
			writeError(w, http.StatusServiceUnavailable, ban.ErrFrozen.Error())
			return
		}
		if r.URL.RawQuery != "cut=1&for=1m0s&prefix=203.0.113.9&reason=a+b" {
			t.Errorf("query %s", r.URL.RawQuery)
		}
		writeJSON(w, http.StatusOK, BanAnswer{BanStatus: BanStatus{Prefix: "203.0.113.9/32"}, Cut: 1})
	}))
	defer s.Close()
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(Control, Address{TCP: netip.MustParseAddrPort(at.Host)})
	r := BanRequest{Prefix: "203.0.113.9", For: time.Minute, Reason: "a b", Cut: true}
	answer, err := c.Ban(context.Background(), r)
	if err != nil || answer.Cut != 1 || frozen >= 0 {
		t.Fatal(answer, err, frozen)
	}
	frozen = 1 << 30
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := c.Ban(ctx, r); err == nil {
		t.Error("the client gave no error, although no process took the ban")
	}
}
