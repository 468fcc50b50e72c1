package supervise

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"unproxy/integration_test/await"
)

// receiver is systemd's end of the notification socket.
func receiver(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(await.Deadline(t))
	return c
}

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// shortDir is a directory whose path leaves room in a sockaddr_un.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "unproxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestTell(t *testing.T) {
	dir := shortDir(t)
	for _, name := range []string{filepath.Join(dir, "notify"), "@unproxy-test-" + filepath.Base(dir)} {
		c := receiver(t, name)
		if err := (Notifier{name}).Tell(Ready, Status("line\nREADY=0\r\n"), MainPID(7), ExtendTimeout(2*time.Second)); err != nil {
			t.Fatal(err)
		}
		want := "READY=1\nSTATUS=line READY=0\nMAINPID=7\nEXTEND_TIMEOUT_USEC=2000000"
		if got := receive(t, c); got != want {
			t.Errorf("systemd got %q, want %q", got, want)
		}
	}
}

// A manager that reads nothing must not hold the gateway up, nor must one that
// is not there.
func TestTellDoesNotHang(t *testing.T) {
	dir := shortDir(t)
	if err := (Notifier{}).Tell(Ready); err != nil {
		t.Errorf("nobody to tell: %v", err)
	}
	if err := (Notifier{filepath.Join(dir, "missing")}).Tell(Ready); err == nil {
		t.Error("no error from a socket that is not there")
	}
	receiver(t, filepath.Join(dir, "full"))
	n := Notifier{filepath.Join(dir, "full")}
	for range 100_000 {
		if err := n.Tell(Watchdog); err != nil {
			return // the queue was full
		}
	}
	t.Error("the queue of a socket that nobody reads has no end")
}

func TestReloading(t *testing.T) {
	first, rest, _ := strings.Cut(Reloading(), "\n")
	if first != "RELOADING=1" || !strings.HasPrefix(rest, "MONOTONIC_USEC=") || len(rest) < len("MONOTONIC_USEC=1000000") {
		t.Errorf("%q, %q", first, rest)
	}
}

// sd_watchdog_enabled(3).
func TestWatchdogInterval(t *testing.T) {
	rows := []struct {
		usec, pid string
		want      time.Duration
		fails     bool
	}{
		{},
		{usec: "30000000", want: 30 * time.Second},
		{usec: "30000000", pid: "42", want: 30 * time.Second},
		{usec: "30000000", pid: "43"},
		{usec: "0", fails: true},
		{usec: "-1", fails: true},
		{usec: "soon", fails: true},
		{usec: "99999999999999999", fails: true},
	}
	for _, row := range rows {
		env := map[string]string{"WATCHDOG_USEC": row.usec, "WATCHDOG_PID": row.pid}
		got, err := WatchdogInterval(func(k string) string { return env[k] }, 42)
		if got != row.want || (err != nil) != row.fails {
			t.Errorf("usec %q of pid %q: %v, %v", row.usec, row.pid, got, err)
		}
	}
}
