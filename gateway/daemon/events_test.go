package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"unproxy/gateway/config"
	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
	"unproxy/gateway/supervise"
	"unproxy/integration_test/await"
)

// The gateway is not ready while any loop is out of descriptors.
func TestShortage(t *testing.T) {
	var (
		s shortage
		r readiness.State
	)
	for i, step := range []struct {
		event string
		ready bool
	}{
		{"resolved", true},
		{"accept_paused", false},
		{"accept_paused", false}, // another loop
		{"accept_resumed", false},
		{"accept_resumed", true},
		{"accept_paused", false},
	} {
		s.note(engine.Notice{Event: step.event}, &r)
		if ready := len(r.Report(0).Reasons) == 0; ready != step.ready {
			t.Errorf("step %d, %s: ready %v", i, step.event, ready)
		}
	}
}

// Two forwards may have the same label. One whose backend does not answer says nothing about the
// other.
func TestBackendsOfForwardsWithOneLabel(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	d, _, _ := daemonOf(t, "127.0.0.1:0=127.0.0.1:1?backend-check=1m",
		"127.0.0.1:0="+backend.Addr().String()+"?backend-check=1m")
	if f := d.config.Gateway.Forwards; f[0].Label() != f[1].Label() {
		t.Fatalf("labels %q and %q", f[0].Label(), f[1].Label())
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.gateway.Run(ctx) }()
	await.Until(t, "the first forward is not ready", func() bool { return !d.readiness.Report(2).Forwards[0].Serves })
	if got := d.readiness.Report(2).Forwards[1]; !got.Serves || len(got.Reasons) != 0 {
		t.Errorf("the other forward: %+v", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A range of ports is one place, whatever its length. Several sockets from systemd are
// not a range, although they may share a name.
func TestListening(t *testing.T) {
	for _, row := range []struct {
		spec  string
		bound string
		want  []place
	}{
		{":22=192.0.2.9:22", "[::]:22", []place{{":22", "[::]:22"}}},
		{"127.0.0.1:0=127.0.0.1:22", "127.0.0.1:4711", []place{{"127.0.0.1:0", "127.0.0.1:4711"}}},
		{"unix:/run/s=127.0.0.1:22", "/run/s", []place{{"unix:/run/s", "unix:/run/s"}}},
		{":1000-1002=127.0.0.1:22", "[::]:1000 [::]:1001 [::]:1002", []place{{":1000-1002", "[::]:1000-1002"}}},
		{"127.0.0.1:5-6=192.0.2.9:5-6", "127.0.0.1:5 127.0.0.1:6", []place{{"127.0.0.1:5-6", "127.0.0.1:5-6"}}},
		{"udp://[::1]:5-6=127.0.0.1:5-6", "[::1]:5 [::1]:6", []place{{"udp://[::1]:5-6", "[::1]:5-6"}}},
		{":7-7=192.0.2.9:22", "[::]:7", []place{{":7", "[::]:7"}}},
		{"systemd:web=127.0.0.1:22", "0.0.0.0:80 /run/web 0.0.0.0:81",
			[]place{{"systemd:web", "0.0.0.0:80"}, {"systemd:web", "unix:/run/web"}, {"systemd:web", "0.0.0.0:81"}}},
	} {
		c, _, err := config.Load(config.Source{
			Forwards: []string{row.spec},
			Settings: config.Values{"trust": {"192.0.2.1"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		f := c.Forwards[0]
		var bound []forward.Bound
		for i, text := range strings.Fields(row.bound) {
			e := forward.Endpoint{Path: text}
			if a, err := netip.ParseAddrPort(text); err == nil {
				e = forward.Endpoint{Addr: a}
			}
			if i == len(f.Listeners) { // as Adopt does
				f.Listeners = append(f.Listeners, f.Listeners[0])
			}
			bound = append(bound, forward.Bound{Forward: f, Listener: f.Listeners[i], Addr: e})
		}
		if got := listening(bound); !slices.Equal(got, row.want) {
			t.Errorf("%s on %s: %v, want %v", row.spec, row.bound, got, row.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	many := make([]error, 15_000)
	for i := range many {
		many[i] = fmt.Errorf("%d", i)
	}
	for _, row := range []struct {
		err  error
		want string
	}{
		{errors.New("a"), "a"},
		{errors.New("a\nb"), "a; b"},
		{errors.New("a\r\nb\n"), "a; b"},
		{errors.Join(many[:3]...), "0; 1; 2"},
		{errors.Join(many[:4]...), "0; 1; 2; and 1 more"},
		{errors.Join(many...), "0; 1; 2; and 14997 more"},
		{fmt.Errorf("w: %w", many[0]), "w: 0"},
	} {
		if got := oneLine(row.err); got != row.want {
			t.Errorf("oneLine(%.20q) = %.100q, want %q", row.err, got, row.want)
		}
	}
}

// READY and RELOADING must not follow STOPPING, and nothing follows a hand-over.
func TestSystemdOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Skipf("no notify socket: %v", err) // the path of TempDir may be too long for a socket
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	nop := zerolog.Nop()
	s := systemd{log: &nop, notifier: supervise.NewNotifier()}
	s.tell(supervise.Ready)
	s.tell(supervise.Stopping)
	s.tell(supervise.Ready, supervise.Status("serving"))
	s.tell(supervise.Reloading())
	s.tell(supervise.Status("draining"))
	s.silence()
	s.tell(supervise.Watchdog)
	var got []string
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for range 3 {
		b := make([]byte, 1024)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(b[:n]))
	}
	if want := []string{"READY=1", "STOPPING=1", "STATUS=draining"}; !slices.Equal(got, want) {
		t.Errorf("systemd got %q, want %q", got, want)
	}
	c.SetReadDeadline(time.Unix(1, 0)) // sends are synchronous: every message is already queued
	if n, err := c.Read(make([]byte, 1024)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more message, of %d bytes: %v", n, err)
	}
}

// Files of sockets that are no longer served are removed; systemd's are kept.
func TestRemoveFiles(t *testing.T) {
	dir := t.TempDir()
	ours, systemds := filepath.Join(dir, "ours"), filepath.Join(dir, "systemd")
	for _, path := range []string{ours, systemds} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := spareSockets{{Name: "unix:" + ours, Path: ours}, {Name: "systemd:web", Path: systemds, Held: true}, {Name: ":1"}}
	if _, ok := all.take("systemd:other"); ok {
		t.Error("took a socket that does not exist")
	}
	if s, ok := all.take(":1"); !ok || s.Name != ":1" || len(all) != 2 {
		t.Errorf("took %+v, %v; left %+v", s, ok, all)
	}
	all.removeFiles()
	if _, err := os.Stat(ours); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the previous process's file: %v", err)
	}
	if _, err := os.Stat(systemds); err != nil {
		t.Errorf("systemd's file: %v", err)
	}
}

// A socket from systemd to which every user may connect is reported.
func TestWorldWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		mode   os.FileMode
		socket supervise.Socket
		want   string
	}{
		{0o666, supervise.Socket{Path: path, Held: true}, "0666"},
		{0o660, supervise.Socket{Path: path, Held: true}, ""},
		{0o666, supervise.Socket{Path: path}, ""}, // our own: --socket-mode sets the mode
		{0o666, supervise.Socket{Held: true}, ""}, // TCP
	} {
		if err := os.Chmod(path, row.mode); err != nil {
			t.Fatal(err)
		}
		if got := worldWritable(row.socket); got != row.want {
			t.Errorf("%v, %+v: %q, want %q", row.mode, row.socket, got, row.want)
		}
	}
}

// A gate accepts when it is open and not after leave. Close ends Accept.
func TestGate(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	g := newGate(ln.(listener), open)
	accepted := make(chan string, 2)
	accept := func() {
		c, err := g.Accept()
		if err != nil {
			accepted <- err.Error()
			return
		}
		c.Close()
		accepted <- "accepted"
	}
	go accept()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case got := <-accepted:
		t.Fatalf("before it is open: %s", got)
	default:
	}
	close(open)
	if got := <-accepted; got != "accepted" {
		t.Errorf("once it is open: %s", got)
	}
	go accept()
	g.leave()
	select {
	case got := <-accepted:
		t.Errorf("after leave: %s", got)
	default:
	}
	g.Close()
	if got := <-accepted; !strings.Contains(got, "closed") {
		t.Errorf("after close: %s", got)
	}
}
