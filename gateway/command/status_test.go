package command

import (
	"context"
	"encoding/json"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"unproxy/gateway/admin"
	"unproxy/gateway/config"
	"unproxy/gateway/readiness"
	"unproxy/integration_test/lab"
)

// run runs unproxy and returns what it printed and its exit code.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.Command("unproxy", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestStatusOfADaemon(t *testing.T) {
	at := "unix:" + filepath.Join(t.TempDir(), "admin.sock")
	d := startDaemon(t, lab.Echo(t, "127.0.0.1:0"), "--admin", at)
	d.connect()
	out, errs, code := run(t, "status", "--admin", at)
	if code != 0 || errs != "" {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	for _, want := range []string{", ready\n", "1 connection (at most ", "\n  127.0.0.1:0 ", "\n  127.0.0.1  1  ", "\nConnections, 1 of 1\n", "203.0.113.9:40000", "relaying  4 B  4 B"} {
		if !strings.Contains(squeeze(out), squeeze(want)) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	t.Setenv("UNPROXY_ADMIN", at)
	out, errs, code = run(t, "status", "--json")
	var s admin.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 || s.Active != 1 {
		t.Errorf("--json: exit code %d, %v: %s%s", code, err, out, errs)
	}
	if out, errs, code := run(t, "healthcheck"); out != "ready\n" || code != 0 {
		t.Errorf("healthcheck: exit code %d: %s%s", code, out, errs)
	}
	d.signal(syscall.SIGTERM)
	d.until("draining")
	if out, errs, code := run(t, "healthcheck"); code != 1 || !strings.HasPrefix(errs, "unproxy: error: not ready: draining") || out != "" {
		t.Errorf("healthcheck during the drain: exit code %d: %s%s", code, out, errs)
	}
	d.signal(syscall.SIGTERM)
	d.cmd.Wait()
	for _, command := range []string{"healthcheck", "status"} {
		if out, errs, code := run(t, command); code != 1 || !strings.Contains(errs, "hint: check that the gateway is running with --admin "+at) || out != "" {
			t.Errorf("%s without a gateway: exit code %d: %s%s", command, code, out, errs)
		}
	}
}

// squeeze replaces runs of spaces by one space, because the width of columns varies.
func squeeze(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }), " ")
}

func TestWriteStatus(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	s := &admin.Status{
		Version: admin.Version{Version: "v1.2.3"}, PID: 7, Time: now, UptimeSeconds: 100_000, Active: 3, Limit: 100, Loops: []int{2, 1}, LogDropped: 9,
		Reasons: []readiness.Reason{{Word: "starting"}, {Word: "draining"}},
		Forwards: []admin.ForwardStatus{{
			Name: ":1-9", Ready: true, Reasons: []readiness.Reason{{Word: "return_path", Detail: "127.0.0.1:22: no answer"}},
			ListenerCount: 9, Transparent: true, Active: 3, Accepted: 1000, Refused: 5, BytesIn: 2048, BytesOut: 5 << 30,
			Listeners: []admin.ListenerStatus{{Leads: "db:5432"}},
			Backends: []admin.BackendStatus{{Backend: "db:5432 (10.0.0.9:5432)", Since: now.Add(-time.Minute), LastError: "connection refused"},
				{Backend: "db:5432 (10.0.0.8:5432)", Up: true}},
			BackendsDown: 2,
			Rates: admin.Rates{AcceptedPerSecond: 12.3, RefusedPerSecond: 0.25, BytesInPerSecond: 100_000,
				HeaderP99: 0.000123, ConnectP99: admin.None()},
		}},
		Trust: []admin.TrustStatus{{Forwards: []string{":1-9"}, Rules: []admin.RuleStatus{
			{Rule: "cloudflare", Origin: "--trust", Note: "preset of 2026-08-22", Hits: 1},
			{Rule: "cloudflare", Origin: "--trust", Note: "preset of 2026-08-22", Hits: 2},
			{Rule: "10.0.0.0/8", Origin: "lb.txt:3", Hits: 4},
		}}},
		Clients: []admin.ClientList{
			{Forwards: []string{":1-9", ":10"}, Action: "deny", Count: 10_000, Hits: 7, Rules: []admin.RuleStatus{
				{Rule: "rfc1918", Origin: "--deny-client", Note: "preset of 2026-08-22", Hits: 3},
				{Rule: "203.0.113.0/24", Origin: "deny.txt:9", Hits: 2},
				{Rule: "rfc1918", Origin: "--deny-client", Note: "preset of 2026-08-22", Hits: 2},
			}},
			{Forwards: []string{":10"}, Action: "allow", Count: 1},
		},
		Bans: 2,
		Refusals: []admin.Refusal{
			{Peer: "10.0.0.1", Forward: ":2", Outcome: "not_proxy", Reason: "no PROXY signature", Count: 2, Last: now.Add(-90 * time.Second),
				Meaning: "the peer sent something other than a PROXY header", Hint: "switch it on", Sample: `"GET /"`, Action: "do this"},
			{Peer: "10.0.0.2", Forward: ":3", Outcome: "untrusted", Count: 1, Last: now, Meaning: "the peer is not trusted", Hint: "trust it"},
			{Peer: "10.0.0.1", ByClient: true, Client: "[2001:db8::9]:4711", Forward: ":3", Outcome: "client_denied", Reason: "this client is banned",
				Count: 3, Last: now, Meaning: "the client is not allowed", Hint: "see reason"},
			{Peer: "10.0.0.1", Client: "203.0.113.9:4711", Forward: ":3", Outcome: "limit", Count: 1, Last: now, Meaning: "a limit", Hint: "raise it"},
		},
	}
	c := &admin.Connections{Matched: 3, Connections: []admin.Connection{
		{ID: "c0ffee-1", Forward: ":1", Client: "203.0.113.9:4711", Peer: "10.0.0.1:1", Backend: "10.0.0.9:5432", State: "relaying", BytesIn: 1000, BytesOut: 1_000_000, AgeSeconds: 59.4, IdleSeconds: 0.2},
		{ID: "c0ffee-2", Forward: ":1", Peer: "unix", State: "header", AgeSeconds: 3601},
	}}
	const want = `unproxy v1.2.3, process 7, up 1d3h, not ready: starting, draining
3 connections (at most 100), by loop: 2 1
9 log lines were lost

Degraded forwards
  :1-9: return_path: 127.0.0.1:22: no answer

Backends that are down
  :1-9 to db:5432 (10.0.0.9:5432): connection refused, since 1m0s
  and 1 more, see --json

Recent refusals
  not_proxy from 10.0.0.1 on :2: 2 connections, the last 1m30s ago
    the peer sent something other than a PROXY header: no PROXY signature
    it began with "GET /"
    hint: switch it on
    do this
  untrusted from 10.0.0.2 on :3: 1 connection, the last 0s ago
    the peer is not trusted
    hint: trust it
  client_denied of client 2001:db8::9 on :3: 3 connections, the last 0s ago
    the client is not allowed: this client is banned
    the last one came from 10.0.0.1
    hint: see reason
  limit from 10.0.0.1 on :3: 1 connection, the last 0s ago
    a limit
    the last one was of client 203.0.113.9:4711
    hint: raise it

Forwards
  LISTEN  READY     LEADS TO                                ACTIVE  ACCEPTED    REFUSED   IN                   OUT             HEADER P99  CONNECT P99
  :1-9    degraded  db:5432 (9 ports), transparent, 2 down  3       1000, 12/s  5, 0.2/s  2.0 KiB, 97.7 KiB/s  5.0 GiB, 0 B/s  123µs       -

Connections, 2 of 3
  ID        FORWARD  CLIENT            PEER        BACKEND        STATE     IN       OUT      AGE   IDLE
  c0ffee-1  :1       203.0.113.9:4711  10.0.0.1:1  10.0.0.9:5432  relaying  1.0 KiB  977 KiB  59s   0s
  c0ffee-2  :1       -                 unix        -              header    0 B      0 B      1h0m  0s

Trust, for :1-9
  RULE        CONNECTIONS  FROM
  cloudflare  3            --trust, preset of 2026-08-22
  10.0.0.0/8  4            lb.txt:3

Clients to deny, for :1-9, :10 (10000 prefixes, 7 connections)
  RULE            CONNECTIONS  FROM
  rfc1918         5            --deny-client, preset of 2026-08-22
  203.0.113.0/24  2            deny.txt:9

Clients to allow, for :10 (1 prefix, 0 connections)

2 bans, see unproxy bans
`
	var got strings.Builder
	writeStatus(&got, s, c, wholeStatus)
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

// Only problems are written. A list that cannot be read is skipped.
func TestWriteFindings(t *testing.T) {
	for _, tt := range []struct{ list, want string }{
		{`null`, ""},
		{`{"of": "another version"}`, ""},
		{`[{"code": "backlog", "component": "host", "target": "listen queue", "status": "ok", "detail": "long"}]`, ""},
		{`[{"component": "return path", "target": "127.0.0.1:22", "status": "fail", "detail": "no rule", "action": ["ip rule add", "nft -f - <<'EOF'\nEOF"]}]`,
			"\nThis host\n  fail  return path 127.0.0.1:22: no rule\n    ip rule add\n    nft -f - <<'EOF'\n    EOF\n"},
	} {
		var got strings.Builder
		writeFindings(&got, json.RawMessage(tt.list), 1)
		if got.String() != tt.want {
			t.Errorf("%s: %q, want %q", tt.list, got.String(), tt.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "1.0 KiB", 1023: "1.0 KiB", 102_300: "99.9 KiB", 102_400: "100 KiB", 1 << 20: "1.0 MiB", 1 << 62: "4.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%v) = %q; want %q", n, got, want)
		}
	}
	for seconds, want := range map[float64]string{0: "0s", 0.4: "0s", 59: "59s", 59.9: "1m0s", 61: "1m1s", 3599: "59m59s", 7384: "2h3m", 86400: "1d0h", 1e9: "11574d1h"} {
		if got := since(seconds); got != want {
			t.Errorf("since(%v) = %q; want %q", seconds, got, want)
		}
	}
	for seconds, want := range map[admin.Maybe]string{0: "0s", 0.0001234: "123µs", 0.0012345: "1.2ms", 1.2345: "1.23s"} {
		if got := latency(seconds); got != want {
			t.Errorf("latency(%v) = %q; want %q", seconds, got, want)
		}
	}
}

// scripted is a writer that records each page and calls after with their count.
type scripted struct {
	pages []string
	after func(n int)
}

func (s *scripted) Write(p []byte) (int, error) {
	s.pages = append(s.pages, string(p))
	s.after(len(s.pages))
	return len(p), nil
}

// The status is refreshed, on a terminal in place. If the gateway does not answer, the
// next refresh tries again.
func TestWatchStatus(t *testing.T) {
	l, err := admin.Listen(admin.Control, admin.Address{TCP: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := admin.Serve(l, admin.Config{Gateway: &config.Config{}, Readiness: &readiness.State{}})
	for _, terminal := range []bool{true, false} {
		ctx, stop := context.WithCancel(t.Context())
		again := make(chan time.Time, 1)
		out := &scripted{after: func(n int) {
			if terminal {
				n-- // of the screen
			}
			if n == 2 && terminal {
				endpoint.Close()
			}
			if n == 3 {
				stop()
			}
			if n >= 1 && n <= 3 {
				again <- time.Time{}
			}
		}}
		v := &viewer{client: admin.NewClient(admin.Control, admin.AddressOf(l)), sort: "age", most: onScreen, out: out, terminal: terminal}
		watch := func() error { return v.watch(ctx, again) }
		if terminal {
			watch = func() error { return v.watchScreen(ctx, stop, nil, again) }
		}
		if err := watch(); err != nil {
			t.Fatal(err)
		}
		if terminal { // the first and the last write enter and leave the screen
			if out.pages[0] != enterScreen || out.pages[len(out.pages)-1] != leaveScreen {
				t.Errorf("first page %q, last page %q", out.pages[0], out.pages[len(out.pages)-1])
			}
			out.pages = out.pages[1 : len(out.pages)-1]
		}
		if len(out.pages) != 3 {
			t.Fatalf("%d pages", len(out.pages))
		}
		last := out.pages[2]
		if !strings.Contains(last, "no answer from the admin endpoint") {
			t.Errorf("without an answer: %q", last)
		}
		for _, p := range out.pages {
			if inPlace := strings.HasPrefix(p, "\x1b[H") && strings.HasSuffix(p, "\x1b[K\x1b[J"); inPlace != terminal {
				t.Errorf("on a terminal %v: %q", terminal, p)
			}
		}
		if terminal && !strings.Contains(out.pages[1], ", \x1b[1m\x1b[32mready\x1b[0m\x1b[K\r\n") {
			t.Errorf("with an answer: %q", out.pages[1])
		}
	}
}

// A text is cut to the size of the terminal. The last line has the number of omitted
// lines.
func TestFit(t *testing.T) {
	const text = "one\ntwo words\nthree\nfour\n"
	for _, row := range []struct {
		width, height int
		want          []string
	}{
		{80, 24, []string{"one", "two words", "three", "four", "q quits"}},
		{80, 5, []string{"one", "two words", "three", "four", "q quits"}},
		{80, 4, []string{"one", "two words", "three", "1 more line; q quits"}},
		{80, 3, []string{"one", "two words", "2 more lines; q quits"}},
		{5, 3, []string{"one", "two …", "2 mo…"}},
		{1, 2, []string{"…", "…"}},
		{80, 1, []string{"4 more lines; q quits"}},
		{0, 0, []string{""}},
	} {
		if got := fit(text, row.width, row.height); !slices.Equal(got, row.want) {
			t.Errorf("%d×%d: %q, want %q", row.width, row.height, got, row.want)
		}
	}
}

// The screen shows few problems, so that the forwards are visible below them.
func TestProblemsOnScreen(t *testing.T) {
	s := &admin.Status{Findings: json.RawMessage(`[{"status":"fail"},{"status":"warn"},{"status":"ok"},{"status":"fail"},{"status":"fail"}]`)}
	for range 5 {
		s.Refusals = append(s.Refusals, admin.Refusal{Outcome: "untrusted"})
	}
	var b strings.Builder
	writeStatus(&b, s, nil, onScreen)
	for _, want := range []string{"and 1 more, see unproxy doctor", "and 2 more groups"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("there is no %q in\n%s", want, b.String())
		}
	}
	if problems, forwards := strings.Index(b.String(), "This host"), strings.Index(b.String(), "Forwards"); problems > forwards {
		t.Errorf("the forwards come before the problems:\n%s", b.String())
	}
}
