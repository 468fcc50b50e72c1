package integration_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

const (
	reloadedMessage = "lists reloaded; flags are read at the start only"
	failedMessage   = "reload failed: the previous lists stay in force"
)

// POST /-/reload reloads as SIGHUP does and answers with the result. The metrics count
// it.
func TestReloadByRequest(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		list := lab.WriteFile(t, "trust", "127.0.0.1\n")
		lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust-file", list, "--admin", adminAt)
		rewrite(t, list, "127.0.0.2\n")
		if code, body := adminPost(t, "/-/reload"); code != http.StatusOK {
			t.Errorf("a correct list: %d %s", code, body)
		}
		wantRejected(t, "127.0.0.1", "127.0.0.1:2000", lab.V2(client4, dest4))
		rewrite(t, list, "127.0.0.2\nnobody\n")
		if code, body := adminPost(t, "/-/reload"); code != http.StatusInternalServerError || !strings.Contains(body, "trust:2: ") {
			t.Errorf("a broken list: %d %s", code, body)
		}
		_, metrics := adminGet(t, adminAt, "/metrics")
		for _, line := range []string{
			`unproxy_trust_reloads_total{result="success"} 1`,
			`unproxy_trust_reloads_total{result="failure"} 1`,
		} {
			if !strings.Contains(metrics, "\n"+line+"\n") {
				t.Errorf("the metrics lack %q", line)
			}
		}
	})
}

// A FIFO in place of the trust file is an error and not a wait for its writer: the old
// list stays in force, and the next good list is read. So it is by signal, by request
// and by interval.
func TestReloadOfAFIFO(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		list := lab.WriteFile(t, "trust", "127.0.0.1\n")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust-file", list,
			"--admin", adminAt, "--reload-interval", "100ms", "--log-level", "info")
		if err := syscall.Mkfifo(list+".fifo", 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(list+".fifo", list); err != nil {
			t.Fatal(err)
		}
		g.WaitLogs(t, failedMessage, 1) // by interval
		g.Signal(syscall.SIGHUP)
		g.WaitLogs(t, failedMessage, 2)
		if code, body := adminPost(t, "/-/reload"); code != http.StatusInternalServerError || !strings.Contains(body, "FIFO") {
			t.Errorf("POST /-/reload: %d %s", code, body)
		}
		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("hello"))
		wantRead(t, backend.Next(t), "hello") // the old list is in force
		conn.Close()
		if err := os.Remove(list); err != nil {
			t.Fatal(err)
		}
		rewrite(t, list, "127.0.0.2\n")
		g.WaitLogs(t, reloadedMessage, 1)
		wantRejected(t, "127.0.0.1", "127.0.0.1:2000", lab.V2(client4, dest4))
	})
}

// SIGHUP reads the trust file again. A peer that is no longer trusted keeps its
// connections; a broken file changes nothing:
//
//	127.0.0.1 ──header──▶ gateway :2000, --trust-file ◀── SIGHUP
//	127.0.0.2 ──header──▶     └──▶ behind :3000
func TestReload(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		list := lab.WriteFile(t, "trust", "127.0.0.1\n")
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust-file", list)
		header := lab.V2(client4, dest4)
		before := lab.Send(t, "127.0.0.1:2000", header)
		behind := backend.Next(t)
		wantRejected(t, "127.0.0.2", "127.0.0.1:2000", header)

		rewrite(t, list, "127.0.0.2\n")
		g.Signal(syscall.SIGHUP)
		g.WaitLogs(t, reloadedMessage, 1)
		wantRejected(t, "127.0.0.1", "127.0.0.1:2000", header)
		other := dialFrom(t, "127.0.0.2", "127.0.0.1:2000")
		write(t, other, header)
		backend.Next(t)
		write(t, before, []byte("still here"))
		wantRead(t, behind, "still here")

		rewrite(t, list, "127.0.0.1\n127.0.0.0/33\n")
		g.Signal(syscall.SIGHUP)
		g.WaitLogs(t, failedMessage, 1)
		broken := g.WaitLog(t, "a list is broken")
		wantMatch(t, broken, "error", "trust:2: ")
		wantMatch(t, broken, "level", "^error$")
		wantRejected(t, "127.0.0.1", "127.0.0.1:2000", header)
		again := dialFrom(t, "127.0.0.2", "127.0.0.1:2000")
		write(t, again, header)
		backend.Next(t)
	})
}

// With --cut-untrusted such a connection is reset, and its log line has the reason:
//
//	127.0.0.1 ──header──▶ gateway :2000, --cut-untrusted ◀── SIGHUP
//	127.0.0.2 ──header──▶     └──▶ behind :3000
func TestCutUntrusted(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		list := lab.WriteFile(t, "trust", "127.0.0.1\n127.0.0.2\n")
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust-file", list, "--cut-untrusted")
		header := lab.V2(client4, dest4)
		gone := lab.Send(t, "127.0.0.1:2000", header)
		behindGone := backend.Next(t)
		stays := dialFrom(t, "127.0.0.2", "127.0.0.1:2000")
		write(t, stays, header)
		behindStays := backend.Next(t)
		rewrite(t, list, "127.0.0.2\n")
		g.Signal(syscall.SIGHUP)
		wantReset(t, gone)
		wantReset(t, behindGone)
		g.NextConnection(t).Expect(t, "outcome", "untrusted", "phase", "relay", "by", "gateway", "reason", "peer is no longer trusted")
		write(t, stays, []byte("unharmed"))
		wantRead(t, behindStays, "unharmed")
	})
}

// --reload-interval notices when a ConfigMap changes, whose files are links into a
// directory that is swapped:
//
//	list ─▶ ..data ─▶ v1, v2/     gateway :2000, --reload-interval
func TestReloadInterval(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		link := func(target, name string) {
			t.Helper()
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		publish := func(version, text string) {
			t.Helper()
			if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
				t.Fatal(err)
			}
			rewrite(t, filepath.Join(dir, version, "list"), text)
			link(version, "..next")
			if err := os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		publish("v1", "127.0.0.2\n")
		link("..data/list", "list")
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000",
			"--trust-file", filepath.Join(dir, "list"), "--reload-interval", "100ms")
		wantRejected(t, "127.0.0.1", "127.0.0.1:2000", lab.V2(client4, dest4))
		publish("v2", "127.0.0.1\n")
		g.WaitLogs(t, reloadedMessage, 1)
		lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		backend.Next(t)

		publish("v3", "not a list\n")
		g.WaitLogs(t, failedMessage, 1)
		publish("v4", "127.0.0.1\n127.0.0.2\n")
		g.WaitLogs(t, reloadedMessage, 2)
		for _, l := range g.Log() {
			if l.String("message") == reloadedMessage {
				l.Expect(t, "because", "a file changed")
			}
		}
	})
}
