package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
)

// crowd returns a busy endpoint whose gateway has six connections.
func crowd() (*Server, *fake) {
	s, g := busy()
	client := func(i int, from string) {
		g.sessions = append(g.sessions, engine.Session{
			ID: uint64(i), Forward: ":1-9", Listener: ":" + string(rune('0'+i)), Peer: peer(1),
			Client: netip.AddrPortFrom(netip.MustParseAddr(from), 4711), State: "relaying",
			BytesIn: int64(i * i % 7), Age: time.Duration(i) * time.Second, Idle: time.Duration(10-i) * time.Second,
		})
	}
	for i, from := range []string{"203.0.113.9", "203.0.113.99", "198.51.100.7", "2001:db8::9", "203.0.12.1"} {
		client(i+1, from)
	}
	g.sessions[3].Buffered, g.sessions[2].Blocked = 5, "client"
	g.sessions = append(g.sessions, engine.Session{
		ID: 6, Forward: "unix:/s", Listener: "unix:/s", State: "header", Age: time.Minute,
	})
	return s, g
}

func TestConnections(t *testing.T) {
	for _, tt := range []struct {
		query   string
		want    string // the IDs in order
		matched int
	}{
		{"", "654321", 6},
		{"sort=age", "654321", 6},
		{"sort=bytes", "253416", 6}, // equal ones by ID
		{"sort=idle", "123456", 6},
		{"sort=held", "431256", 6}, // most bytes, then blocked ones, then longest idle
		{"limit=2", "65", 6},
		{"limit=1", "6", 6},
		{"client=203.0.113.9", "1", 1},
		{"client=203.0.113.9/32", "1", 1},
		{"client=203.0.113.0/24", "21", 2},
		{"client=203.0.1", "521", 3},
		{"client=2001:db8::/32", "4", 1},
		{"client=2001:", "4", 1},
		{"client=::ffff:203.0.113.9", "1", 1}, // 4-in-6
		{"client=", "654321", 6},
		{"client=none", "", 0},
		{"forward=:3", "3", 1},
		{"forward=:1-9", "54321", 5},
		{"forward=:1-9&client=203.0.113.0/24&limit=1&sort=bytes", "2", 2},
	} {
		s, _ := crowd()
		w := ask(s, "GET", "/connections.json?"+strings.ReplaceAll(tt.query, "/", "%2F"))
		var got Connections
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", tt.query, w.Code, w.Body)
		}
		ids := ""
		for _, c := range got.Connections {
			ids += strings.TrimPrefix(c.ID, "c0ffee-")
		}
		if ids != tt.want || got.Matched != tt.matched {
			t.Errorf("%s: connections %q of %d; want %q of %d", tt.query, ids, got.Matched, tt.want, tt.matched)
		}
	}
}

func TestConnectionInJSON(t *testing.T) {
	s, g := crowd()
	g.sessions = []engine.Session{{
		ID: 0x2a, Forward: ":1-9", Listener: ":2", Peer: peer(1), Client: netip.MustParseAddrPort("203.0.113.9:4711"),
		Destination: netip.MustParseAddrPort("[2001:db8::1]:443"), Backend: forward.Endpoint{Path: "/run/db"},
		Transparent: true, Version: 2, State: "relaying", BytesIn: 1, BytesOut: 2,
		Blocked: "client", HalfClosed: "backend", Buffered: 3, Piped: 4,
		Age: 1500 * time.Millisecond, Idle: time.Millisecond,
	}, {ID: 1, Listener: "unix:/s", State: "header"}}
	const want = `{"schema":1,"matched":2,"connections":[` +
		`{"id":"c0ffee-2a","forward":":2","peer":"10.0.0.1:1001","client":"203.0.113.9:4711",` +
		`"destination":"[2001:db8::1]:443","backend":"unix:/run/db",` +
		`"transparent":true,"version":2,"state":"relaying","bytes_in":1,"bytes_out":2,` +
		`"blocked":"client","half_closed":"backend","buffered_bytes":3,"piped_bytes":4,` +
		`"age_seconds":1.5,"idle_seconds":0.001},` +
		`{"id":"c0ffee-1","forward":"unix:/s","peer":"unix","client":"","destination":"","backend":"",` +
		`"transparent":false,"version":0,"state":"header","bytes_in":0,"bytes_out":0,"buffered_bytes":0,"piped_bytes":0,` +
		`"age_seconds":0,"idle_seconds":0}]}` + "\n"
	if w := ask(s, "GET", "/connections.json"); w.Body.String() != want {
		t.Errorf("got  %swant %s", w.Body, want)
	}
}

// An unknown or invalid filter is an error: the caller would take the answer for a
// filtered one.
func TestInvalidQuery(t *testing.T) {
	for query, want := range map[string]string{
		"limit=0":      "limit",
		"limit=10001":  "10000",
		"limit=many":   "many",
		"sort=beauty":  "age, bytes, idle, held",
		"clinet=10.0.": `unknown parameter \"clinet\"; use client, forward, limit, sort`,
		"client=%zz":   "invalid URL escape",

		"client=10.0.0.1&client=10.0.0.2": `parameter \"client\" appears 2 times`,
	} {
		s, _ := crowd()
		w := ask(s, "GET", "/connections.json?"+query)
		body := w.Body.String()
		if w.Code != http.StatusBadRequest || !strings.Contains(body, want) || !strings.HasPrefix(body, `{"error":`) {
			t.Errorf("%s: %d %s; want 400 with %q", query, w.Code, body, want)
		}
	}
}

// A query over many connections keeps few of them in memory, and the right ones.
func TestFirstOfMany(t *testing.T) {
	_, g := crowd()
	g.sessions = nil
	for i := range 5000 {
		g.sessions = append(g.sessions, engine.Session{ID: uint64(i), Age: time.Duration(i * 7919 % 5000)})
	}
	q := query{limit: 10, order: oldestFirst}
	found, matched, err := q.find(t.Context(), g)
	if err != nil || matched != 5000 || len(found) != 10 || cap(found) > 64 {
		t.Fatalf("found %d of %d with capacity %d, %v; want 10 of 5000", len(found), matched, cap(found), err)
	}
	ages := make([]int, 0, 10)
	for _, s := range found {
		ages = append(ages, int(s.Age))
	}
	if want := []int{4999, 4998, 4997, 4996, 4995, 4994, 4993, 4992, 4991, 4990}; !slices.Equal(ages, want) {
		t.Errorf("ages %v; want %v", ages, want)
	}
}

func TestCut(t *testing.T) {
	s, g := crowd()
	for _, tt := range []struct {
		path string
		code int
	}{
		{"/connections/c0ffee-3", http.StatusNoContent},
		{"/connections/c0ffee-2a", http.StatusNotFound},
		{"/connections/3", http.StatusNotFound},
		{"/connections/beef-3", http.StatusNotFound}, // of another process
		{"/connections/", http.StatusNotFound},
		{"/connections/c0ffee-3/more", http.StatusNotFound},
	} {
		if w := ask(s, "DELETE", tt.path); w.Code != tt.code {
			t.Errorf("DELETE %s: %d %s; want %d", tt.path, w.Code, w.Body, tt.code)
		}
	}
	if !slices.Equal(g.reset, []uint64{3}) {
		t.Errorf("cut %v; want only connection 3", g.reset)
	}
	if w := ask(s, "POST", "/connections/c0ffee-3"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
	g.err = errors.New("stalled")
	for _, request := range [][2]string{
		{"DELETE", "/connections/c0ffee-3"}, {"GET", "/connections.json"}, {"GET", "/status.json"},
	} {
		w := ask(s, request[0], request[1])
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "stalled") {
			t.Errorf("%s %s with a stalled loop: %d %s", request[0], request[1], w.Code, w.Body)
		}
	}
}

func TestBeforeAttach(t *testing.T) {
	s := newServer(quiet(), nearby)
	const none = `{"schema":1,"matched":0,"connections":[]}` + "\n"
	if w := ask(s, "GET", "/connections.json"); w.Code != http.StatusOK || w.Body.String() != none {
		t.Errorf("connections: %d %s; want %s", w.Code, w.Body, none)
	}
	if w := ask(s, "DELETE", "/connections/-1"); w.Code != http.StatusNotFound {
		t.Errorf("cut: %d %s", w.Code, w.Body)
	}
	if w := ask(s, "GET", "/status.json"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"forwards":[]`) {
		t.Errorf("status: %d %s", w.Code, w.Body)
	}
}
