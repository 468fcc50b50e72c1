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

// Systemd receives what services report by sd_notify(3).
type Systemd struct {
	path string

	mu       sync.Mutex
	messages []string
	next     int // WaitMessage starts here
}

// NewSystemd opens a notification socket.
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
		s.messages = append(s.messages, string(b[:n]))
		s.mu.Unlock()
	}
}

// Environment returns the environment with which a service reports to s.
func (s *Systemd) Environment(more ...string) []string {
	return append([]string{"NOTIFY_SOCKET=" + s.path}, more...)
}

// WaitMessage waits for a message that contains text, after the one that it returned
// last.
func (s *Systemd) WaitMessage(t testing.TB, text string) string {
	t.Helper()
	var message string
	if !await.For(t, func() (found bool) { message, found = s.find(text); return found }) {
		t.Fatalf("systemd did not receive %q after %q", text, s.Messages())
	}
	return message
}

func (s *Systemd) find(text string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := s.next; i < len(s.messages); i++ {
		if strings.Contains(s.messages[i], text) {
			s.next = i + 1
			return s.messages[i], true
		}
	}
	return "", false
}

// Messages returns all messages received so far.
func (s *Systemd) Messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages[:len(s.messages):len(s.messages)]
}

// Activated returns the command that starts the gateway as systemd starts a
// socket-activated service: with the sockets and their names, separated by colons. A
// shell sets LISTEN_PID, because only the new process knows its id.
func Activated(t testing.TB, names string, files ...*os.File) Command {
	t.Helper()
	script := fmt.Sprintf("#!/bin/sh\nLISTEN_PID=$$ exec %s \"$@\"\n", Binary(t))
	return Command{Name: Script(t, "activate", script), Files: files, Env: []string{
		fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES=" + names,
	}}
}

// Socket listens on an address of network "tcp" or "unix" as systemd does. The file
// is closed with the test.
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

// Gone waits until a process has ended that is not a child of the test.
func Gone(t testing.TB, pid int) {
	t.Helper()
	await.Until(t, fmt.Sprintf("process %d has ended", pid), func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(text), ") Z ")
	})
}
