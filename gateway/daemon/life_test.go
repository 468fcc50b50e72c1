package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"unproxy/gateway/accesslog"
	"unproxy/gateway/config"
	"unproxy/gateway/forward"
)

// paper is a log in memory.
type paper struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

// messages returns the messages that were logged.
func (p *paper) messages(t *testing.T) (all []string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for line := range strings.Lines(p.text.String()) {
		var entry struct{ Message string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		all = append(all, entry.Message)
	}
	return all
}

// testDaemon returns a daemon and its log. The gateway listens on a free port of
// loopback and does not run. closeLog flushes the log.
func testDaemon(t *testing.T) (d *daemon, written *paper, closeLog func()) {
	t.Helper()
	return daemonOf(t, "127.0.0.1:0=127.0.0.1:1")
}

// daemonOf is testDaemon with other forwards.
func daemonOf(t *testing.T, forwards ...string) (d *daemon, written *paper, closeLog func()) {
	t.Helper()
	t.Setenv("NOTIFY_SOCKET", "")
	written = &paper{}
	access, err := accesslog.New(accesslog.Config{Writer: written, Format: accesslog.JSON, Level: accesslog.Debug})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { access.Close() })
	c, _, err := config.Load(config.Source{
		Forwards: forwards,
		Settings: config.Values{"trust": {"127.0.0.1"}, "loops": {"1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	d = newDaemon(Config{Gateway: c}, access)
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	return d, written, func() { access.Close() }
}

// The first stop begins the drain. A second signal cuts it short. A request over HTTP
// does not, because clients repeat requests.
func TestStop(t *testing.T) {
	rows := []struct {
		name       string
		do         func(*life)
		draining   bool
		lastLogged string
	}{
		{"nothing", func(*life) {}, false, ""},
		{"SIGTERM", func(l *life) { l.signal(syscall.SIGTERM) }, true, "draining"},
		{"SIGINT twice", func(l *life) { l.signal(os.Interrupt); l.signal(os.Interrupt) }, true, "drain cut short"},
		{"a request twice", func(l *life) { l.stopOnce("a request"); l.stopOnce("a request") }, true, "draining"},
		{"a request after a signal", func(l *life) { l.signal(syscall.SIGTERM); l.stopOnce("a request") }, true, "draining"},
		{"a signal after a request", func(l *life) { l.stopOnce("a request"); l.signal(syscall.SIGTERM) },
			true, "drain cut short"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d, written, closeLog := testDaemon(t)
			ctx, drain := context.WithCancel(t.Context())
			l := newLife(d, nil, drain)
			row.do(l)
			closeLog()
			last := ""
			if all := written.messages(t); len(all) > 0 {
				last = all[len(all)-1]
			}
			if last != row.lastLogged || l.draining() != row.draining || (ctx.Err() != nil) != row.draining {
				t.Errorf("draining %v (the gateway: %v), last logged %q; want %v, %q",
					l.draining(), ctx.Err() != nil, last, row.draining, row.lastLogged)
			}
		})
	}
}

// Several SIGHUPs before a reload begins cause only one reload.
func TestReloadsAreMerged(t *testing.T) {
	d, _, _ := testDaemon(t)
	l := newLife(d, nil, func() {})
	for range 3 {
		l.signal(syscall.SIGHUP)
	}
	if n := len(l.reloads); n != 1 {
		t.Errorf("%d reloads wait, want 1", n)
	}
}

// The states in which an upgrade is refused, and the reason.
func TestNoUpgrade(t *testing.T) {
	rows := []struct {
		name string
		do   func(*life)
		want string
	}{
		{"not in charge yet", func(*life) {}, "this process is not ready yet"},
		{"in charge", func(l *life) { l.serving = true }, ""},
		{"draining", func(l *life) { l.serving = true; l.stops = 1 }, "the gateway is draining"},
		{"handed over", func(l *life) { l.serving = true; l.handedOver = true }, "the gateway is draining"},
		{"UDP", func(l *life) {
			l.serving = true
			l.config.Gateway.Forwards = append(l.config.Gateway.Forwards, &forward.Forward{Datagrams: true})
		}, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d, _, _ := testDaemon(t)
			l := newLife(d, nil, func() {})
			row.do(l)
			if got := l.noUpgrade(); (got == "") != (row.want == "") || !strings.Contains(got, row.want) {
				t.Errorf("the reason is %q, want %q", got, row.want)
			}
		})
	}
}
