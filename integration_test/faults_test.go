package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// injection is a system call that fails in the gateway, by strace's -e inject.
type injection struct {
	call, errno string
	when        string   // which calls of each thread; empty: all
	bulk        bool     // the traffic is bulk rather than short exchanges
	of          []string // sockets, as links in /proc show them; empty: all
	outcomes    []string
}

var injections = []injection{
	{call: "accept4", errno: "EMFILE", when: "1..3"},
	{call: "accept4", errno: "EPERM", when: "1..200"},
	{call: "accept4", errno: "EINVAL", when: "1..3"},
	{call: "socket", errno: "EMFILE", when: "1..3"},
	{call: "socket", errno: "EPROTONOSUPPORT", when: "1..3", outcomes: []string{"internal"}},
	{call: "connect", errno: "ECONNREFUSED", when: "1..3", outcomes: []string{"backend_refused"}},
	{call: "setsockopt", errno: "EINVAL", when: "1..3", outcomes: []string{"internal"}},
	{call: "epoll_ctl", errno: "ENOMEM", when: "1..3", outcomes: []string{"internal", "limit"}},
	{call: "recvfrom", errno: "ENOMEM", when: "2..4", outcomes: []string{"limit"}},
	{call: "recvfrom", errno: "ECONNRESET", when: "2..4", outcomes: []string{"reset", "empty"}},
	{call: "sendto", errno: "EPIPE", when: "2..4", outcomes: []string{"reset", "backend_unreachable"}},
	{call: "shutdown", errno: "EPERM", when: "1..3", outcomes: []string{"internal"}},
	{call: "shutdown", errno: "ENOTCONN", when: "1..3", outcomes: []string{"reset"}},
	{call: "io_submit", errno: "EAGAIN"},
	{call: "pipe2", errno: "EMFILE", bulk: true},
	{call: "splice", errno: "EINVAL", bulk: true},
	{call: "splice", errno: "ECONNRESET", when: "3..4", bulk: true, outcomes: []string{"reset"}},
}

// A system call of the running gateway fails. The process lives, connections end in a way that fits, one that
// is idle meanwhile goes on, and later ones are served:
//
//	conns ──header, 1 KiB or 4 MiB──▶ gateway :2000, system calls fail ──▶ echo :3000
func TestInjectedFaults(t *testing.T) {
	lab.Require(t, "strace")
	for _, row := range injections {
		t.Run(row.call+" "+row.errno, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Echo(t, "127.0.0.1:3000")
				g := plainGateway(t, "--loops", "1", "--idle-timeout", "1m")
				idle := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("before"))
				wantRead(t, idle, "before")
				injected := row.inject(t, g)
				rounds := 0
				await.Until(t, "a call fails", func() bool {
					rounds++
					row.exchangeAll(t)
					return injected.failures() > 0
				})
				injected.end(t)
				write(t, idle, []byte("after"))
				wantRead(t, idle, "after")
				later := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("later"))
				wantRead(t, later, "later")
				row.expectOutcomes(t, g, rounds)
			})
		})
	}
}

// strace is a running strace that makes calls fail.
type strace struct{ *lab.Process }

// failures returns how many calls have failed.
func (s strace) failures() int { return strings.Count(strings.Join(s.Lines(), "\n"), "(INJECTED)") }

func (s strace) end(t *testing.T) {
	t.Helper()
	if err := s.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.Wait(t)
}

// inject makes calls fail from now on.
func (i *injection) inject(t *testing.T, g *lab.Gateway) strace {
	t.Helper()
	expression := fmt.Sprintf("inject=%s:error=%s", i.call, i.errno)
	if i.when != "" {
		expression += ":when=" + i.when
	}
	args := []string{"-f", "-e", "trace=" + i.call, "-e", expression, "-p", strconv.Itoa(g.PID())}
	for _, socket := range i.of {
		args = append(args, "-P", socket)
	}
	p := lab.Start(t, lab.Command{Name: "strace", Args: args})
	await.Until(t, "strace has attached, or may not", func() bool {
		return slices.ContainsFunc(p.Lines(), func(line string) bool {
			return strings.Contains(line, "attached") || strings.Contains(line, "ttach")
		})
	})
	for _, line := range p.Lines() {
		if strings.Contains(line, "not permitted") || strings.Contains(line, "Could not attach") {
			t.Skipf("ptrace is not allowed: %s", line)
		}
	}
	return strace{p}
}

// traffic returns the number of connections in a round and the bytes that each sends.
func (i *injection) traffic() (connections, size int) {
	if i.bulk {
		return 4, 4 << 20
	}
	return 16, 1 << 10
}

// exchangeAll makes connections at once, each of which gets back what it sends, or ends early.
func (i *injection) exchangeAll(t *testing.T) {
	t.Helper()
	n, size := i.traffic()
	data := make([]byte, size)
	for at := range data {
		data[at] = byte(at * 7 >> 3)
	}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if err := throughEcho(data); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// throughEcho sends data and a FIN and reads what comes back. An RST may come at any time, a FIN only after
// everything, or instead of all.
func throughEcho(data []byte) error {
	conn, err := net.Dial("tcp", "127.0.0.1:2000")
	if errors.Is(err, syscall.ECONNRESET) {
		return nil // before connect(2) returned
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(await.Patience)); err != nil {
		return err
	}
	go func() {
		conn.Write(append(lab.V2(client4, dest4), data...))
		conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		return fmt.Errorf("neither data nor an end: %w", err)
	}
	if !bytes.HasPrefix(data, got) || err == nil && len(got) != len(data) && len(got) > 0 {
		return fmt.Errorf("%d of %d bytes came back, or others, %v", len(got), len(data), err)
	}
	return nil
}

// expectOutcomes checks how the connections of some rounds ended.
func (i *injection) expectOutcomes(t *testing.T, g *lab.Gateway, rounds int) {
	t.Helper()
	n, _ := i.traffic()
	for _, line := range g.WaitLogs(t, "connection", rounds*n) {
		if outcome := line.String("outcome"); outcome != "ok" && !slices.Contains(i.outcomes, outcome) {
			t.Errorf("outcome %s (%v), want ok or one of %q", outcome, line["reason"], i.outcomes)
		}
	}
}
