package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"unproxy/integration_test/await"
)

// Systemd is the end of the socket on which services tell systemd how they are.
type Systemd struct {
	path string

	mu   sync.Mutex
	told []string
	next int // the message that WaitTold looks at next
}

// NewSystemd listens for what services tell.
func NewSystemd(t testing.TB) *Systemd {
	t.Helper()
	dir, err := os.MkdirTemp("", "unproxy") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Systemd{path: filepath.Join(dir, "notify")}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.read(c)
	}()
	t.Cleanup(func() {
		c.Close()
		<-ended
	})
	return s
}

func (s *Systemd) read(c *net.UnixConn) {
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.told = append(s.told, string(b[:n]))
		s.mu.Unlock()
	}
}

// Environment is what a service needs to tell.
func (s *Systemd) Environment(more ...string) []string {
	return append([]string{"NOTIFY_SOCKET=" + s.path}, more...)
}

// WaitTold waits for a message with text that came after the one that it
// returned last, and returns it whole.
func (s *Systemd) WaitTold(t testing.TB, text string) string {
	t.Helper()
	var message string
	if !await.For(t, func() (found bool) { message, found = s.find(text); return found }) {
		t.Fatalf("systemd was not told %q after %q", text, s.Told())
	}
	return message
}

func (s *Systemd) find(text string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := s.next; i < len(s.told); i++ {
		if strings.Contains(s.told[i], text) {
			s.next = i + 1
			return s.told[i], true
		}
	}
	return "", false
}

// Told returns all that was told so far.
func (s *Systemd) Told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told[:len(s.told):len(s.told)]
}

// Activated returns the command that starts the gateway as systemd starts a
// service of socket units: with the sockets, by their names. Only the process
// itself can know its id, which the variables are to name.
func Activated(t testing.TB, names string, files ...*os.File) Command {
	t.Helper()
	script := fmt.Sprintf("#!/bin/sh\nLISTEN_PID=$$ exec %s \"$@\"\n", Binary(t))
	path := filepath.Join(t.TempDir(), "activate")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return Command{Name: path, Files: files, Env: []string{
		fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES=" + names,
	}}
}

// Socket listens on address, of network tcp or unix, as systemd does: the
// returned file is closed with the test.
func Socket(t testing.TB, network, address string) *os.File {
	t.Helper()
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	l, err := c.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	defer l.Close()
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Gone waits until a process that is no child of the test's has ended.
func Gone(t testing.TB, pid int) {
	t.Helper()
	await.Until(t, fmt.Sprintf("process %d has ended", pid), func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(text), ") Z ")
	})
}
