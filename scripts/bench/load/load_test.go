package load

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
)

// backendVariable is the environment variable that makes the test binary run the backend on
// an address. The backend needs a process of its own, because its thread waits in raw
// system calls.
const backendVariable = "UNPROXY_TEST_BACKEND"

func TestMain(m *testing.M) {
	if at := os.Getenv(backendVariable); at != "" {
		println(Serve(netip.MustParseAddrPort(at)).Error())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// startBackend starts a backend on a free port.
func startBackend(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), backendVariable+"="+at.String())
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	await.Until(t, "the backend listens", func() bool {
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return at
}

// Each kind of work, directly with the backend, makes progress without errors.
func TestEachWorkMakesProgress(t *testing.T) {
	at := startBackend(t)
	for _, row := range []struct {
		name   string
		groups []Group
	}{
		{"ping-pong", []Group{{PingPong, 10, 64}}},
		{"large ping-pong, which sockets take in pieces", []Group{{PingPong, 20, 3 << 20}}},
		{"connections", []Group{{Connect, 10, 64}}},
		{"connections beside idle ones", []Group{{Idle, 300, 64}, {Connect, 10, 64}}},
		{"down", []Group{{Down, 3, 0}}},
		{"up", []Group{{Up, 3, 0}}},
		{"both ways", []Group{{Both, 3, 0}}},
		{"all of it", []Group{{Idle, 10, 64}, {PingPong, 10, 4096}, {Connect, 4, 64}, {Down, 1, 0}, {Up, 1, 0}}},
	} {
		t.Run(row.name, func(t *testing.T) { tryWork(t, at, row.groups) })
	}
}

func tryWork(t *testing.T, at netip.AddrPort, groups []Group) {
	l, err := New(Config{Gateway: at, Clients: &Clients{}}, groups...)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Open(await.Patience); err != nil {
		t.Fatal(err)
	}
	if want := answering(groups); l.Held() != want {
		t.Errorf("%d connections had a response, want %d", l.Held(), want)
	}
	l.Reset()
	await.Until(t, fmt.Sprintf("each group makes progress: %+v", groups), func() bool {
		if _, err := l.Run(50 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		return worked(l)
	})
	if n, err := l.Errors(); n > 0 {
		t.Errorf("%d errors, the first: %v", n, err)
	}
	for i, c := range l.Counts() {
		if groups[i].Work == Idle && c.Answers > 0 {
			t.Error("idle connections work")
		}
	}
}

// answering returns the number of connections with responses.
func answering(groups []Group) (n int) {
	for _, g := range groups {
		if g.Work.answers() {
			n += g.Connections
		}
	}
	return n
}

// worked reports whether each group except idle ones made progress.
func worked(l *Load) bool {
	for i, g := range l.groups {
		if c := l.counts[i]; g.Work != Idle && c.Answers == 0 && c.Bytes == 0 {
			return false
		}
	}
	return true
}

// Errors are counted and returned.
func TestErrorsAreCountedAndReported(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	closing, err := New(Config{Gateway: at, Clients: &Clients{}}, Group{Connect, 4, 64})
	if err != nil {
		t.Fatal(err)
	}
	defer closing.Close()
	if err := closing.Open(await.Patience); err == nil || !strings.Contains(err.Error(), "others failed") {
		t.Errorf("Open with connections that are closed at once: %v", err)
	}
	if n, err := closing.Errors(); n < mostErrors || err == nil {
		t.Errorf("%d errors, the first: %v", n, err)
	}
}

// Open fails if a gateway accepts connections but sends nothing.
func TestSilentGatewayFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent, err := New(Config{Gateway: l.Addr().(*net.TCPAddr).AddrPort(), Clients: &Clients{}}, Group{PingPong, 4, 64})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := silent.Open(time.Millisecond); err == nil || !strings.Contains(err.Error(), "0 of 4") {
		t.Errorf("a silent gateway: %v", err)
	}
}
