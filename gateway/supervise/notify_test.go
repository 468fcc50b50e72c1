package supervise

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
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

// shortDir returns a directory with a path short enough for a sockaddr_un.
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
		t.Setenv("NOTIFY_SOCKET", name)
		err := NewNotifier().Tell(Ready, Status("line\nREADY=0\r\n"), MainPID(7), ExtendTimeout(2*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		want := "READY=1\nSTATUS=line READY=0\nMAINPID=7\nEXTEND_TIMEOUT_USEC=2000000"
		if got := receive(t, c); got != want {
			t.Errorf("systemd got %q, want %q", got, want)
		}
	}
}

// Tell does not block if the service manager reads nothing or has exited.
func TestTellDoesNotHang(t *testing.T) {
	dir := shortDir(t)
	t.Setenv("NOTIFY_SOCKET", "")
	if err := NewNotifier().Tell(Ready); err != nil {
		t.Errorf("without NOTIFY_SOCKET: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "missing"))
	if err := NewNotifier().Tell(Ready); err == nil {
		t.Error("no error for a socket that does not exist")
	}
	full := filepath.Join(dir, "full")
	c := receiver(t, full)
	t.Setenv("NOTIFY_SOCKET", full)
	n := NewNotifier()
	sent := 0
	for ; sent < 100_000 && n.Tell(Watchdog) == nil; sent++ {
	}
	if sent == 100_000 {
		t.Fatal("the queue of an unread socket is not limited")
	}
	for range sent + 1 { // the message that waited arrives, too
		if got := receive(t, c); got != Watchdog {
			t.Errorf("systemd got %q", got)
		}
	}
	if err := n.Tell(Stopping); err != nil {
		t.Errorf("with an empty queue: %v", err)
	}
	if got := receive(t, c); got != Stopping {
		t.Errorf("systemd got %q, want %q", got, Stopping)
	}
}

func TestReloading(t *testing.T) {
	first, rest, _ := strings.Cut(Reloading(), "\n")
	if first != "RELOADING=1" || !strings.HasPrefix(rest, "MONOTONIC_USEC=") || len(rest) < len("MONOTONIC_USEC=1000000") {
		t.Errorf("%q, %q", first, rest)
	}
}

// sd_watchdog_enabled(3).
func TestWatchdogInterval(t *testing.T) {
	self, other := strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getppid())
	rows := []struct {
		usec, pid string
		want      time.Duration
		fails     bool
	}{
		{},
		{usec: "30000000", want: 30 * time.Second},
		{usec: "30000000", pid: self, want: 30 * time.Second},
		{usec: "30000000", pid: other},
		{usec: "0", fails: true},
		{usec: "-1", fails: true},
		{usec: "soon", fails: true},
		{usec: "99999999999999999", fails: true},
		{usec: "20000000000000000", fails: true}, // overflows to a positive number when multiplied by 1000
	}
	for _, row := range rows {
		t.Setenv("WATCHDOG_USEC", row.usec)
		t.Setenv("WATCHDOG_PID", row.pid)
		got, err := WatchdogInterval()
		if got != row.want || (err != nil) != row.fails {
			t.Errorf("usec %q of pid %q: %v, %v", row.usec, row.pid, got, err)
		}
	}
}
