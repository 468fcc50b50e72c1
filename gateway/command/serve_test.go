package command

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
)

// process is a gateway in a separate process, and its log.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	stderr  io.Closer
	log     *bufio.Scanner
	address string
}

// entry has the keys of a log line that the tests read.
type entry struct {
	Level, Message, Address, Client, Outcome, Forward string
	Accepted, Cut, Active, Loops                      int
}

// startDaemon starts a gateway on a free loopback port and waits until it is ready.
func startDaemon(t *testing.T, backend string, flags ...string) *process {
	t.Helper()
	args := append([]string{"--forward", "127.0.0.1:0=" + backend, "--trust", "127.0.0.1", "--loops", "1"}, flags...)
	d := &process{t: t, cmd: exec.Command("unproxy", args...)}
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		d.cmd.Wait()
	})
	d.stderr, d.log = stderr, bufio.NewScanner(stderr)
	d.address = d.until("listening").Address
	d.until("ready")
	return d
}

// until reads the log up to a line with a message.
func (d *process) until(message string) entry {
	d.t.Helper()
	for d.log.Scan() {
		var e entry
		if err := json.Unmarshal(d.log.Bytes(), &e); err != nil {
			d.t.Fatalf("log line %q: %v", d.log.Text(), err)
		}
		if e.Message == message {
			return e
		}
	}
	d.t.Fatalf("the log ended without %q", message)
	return entry{}
}

// signal sends the process a signal.
func (d *process) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// connect opens a connection, sends a header, and waits for an answer of the backend.
func (d *process) connect() net.Conn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	c.SetDeadline(await.Deadline(d.t))
	if _, err := io.WriteString(c, "PROXY TCP4 203.0.113.9 198.51.100.7 40000 22\r\nping"); err != nil {
		d.t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "ping" {
		d.t.Fatalf("received %q, %v through the gateway", got, err)
	}
	return c
}

func TestServeDrains(t *testing.T) {
	d := startDaemon(t, lab.Echo(t, "127.0.0.1:0"))
	c := d.connect()
	d.signal(syscall.SIGHUP)
	d.until("lists reloaded; flags are read at the start only")
	d.signal(syscall.SIGTERM)
	if e := d.until("draining"); e.Active != 1 {
		t.Errorf("draining with %d active connections; want 1", e.Active)
	}
	if _, err := io.WriteString(c, "more"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Errorf("a connection during the drain: %v", err)
	}
	c.Close()
	if e := d.until("connection"); e.Outcome != "ok" || e.Client != "203.0.113.9:40000" || e.Forward != "127.0.0.1:0" {
		t.Errorf("the connection's line: %+v", e)
	}
	if e := d.until("stopped"); e.Accepted != 1 || e.Cut != 0 {
		t.Errorf("stopped: %+v; want 1 accepted and none cut", e)
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("exit after a complete drain: %v; want code 0", err)
	}
}

// A unix socket that another gateway listens on is named with its process, for a forward
// and for the admin endpoint. That gateway keeps its socket.
func TestSocketInUseNamesItsOwner(t *testing.T) {
	dir := t.TempDir()
	forward, admin := "unix:"+dir+"/forward", "unix:"+dir+"/admin"
	d := startDaemon(t, lab.Echo(t, "127.0.0.1:0"), "--forward", forward+"=127.0.0.1:1", "--admin", admin)
	owner := fmt.Sprintf("the address is in use: unproxy (process %d) listens on ", d.cmd.Process.Pid)
	for at, args := range map[string][]string{
		forward: {"--forward", forward + "=127.0.0.1:1"},
		admin:   {"--forward", "127.0.0.1:0=127.0.0.1:1", "--trust", "127.0.0.1", "--admin", admin},
	} {
		_, errs, code := run(t, append([]string{"--log-level", "error"}, args...)...)
		if code != 1 || !strings.Contains(errs, owner+at+"\n") {
			t.Errorf("%s: exit code %d: %s; want %q", at, code, errs, owner+at)
		}
	}
	if out, errs, code := run(t, "status", "--admin", admin); code != 0 {
		t.Errorf("the owner lost its socket: exit code %d: %s%s", code, out, errs)
	}
}

func TestSecondSignalEndsTheDrain(t *testing.T) {
	d := startDaemon(t, lab.Echo(t, "127.0.0.1:0"))
	d.connect()
	d.signal(syscall.SIGINT)
	d.until("draining")
	d.signal(syscall.SIGINT)
	d.until("drain cut short")
	if e := d.until("stopped"); e.Cut != 1 {
		t.Errorf("stopped: %+v; want one cut", e)
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("exit after the drain was cut short: %v", err)
	}
}

// The reader of the log goes away: writes to stderr then fail with EPIPE, which ends a
// Go process unless SIGPIPE is ignored.
func TestServeOutlivesItsLog(t *testing.T) {
	d := startDaemon(t, lab.Echo(t, "127.0.0.1:0"), "--drain-timeout", "0")
	d.stderr.Close()
	for range 3 {
		d.connect().Close() // a line each
	}
	d.connect()
	d.signal(syscall.SIGTERM)
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("exit after the reader of the log has exited: %v", err)
	}
}

func TestServeFromTheEnvironment(t *testing.T) {
	t.Setenv("UNPROXY_ACCESS_LOG", "off")
	t.Setenv("UNPROXY_DRAIN_TIMEOUT", "0")
	d := startDaemon(t, lab.Echo(t, "127.0.0.1:0"))
	d.connect()
	d.signal(syscall.SIGTERM)
	for d.log.Scan() {
		var e entry
		if err := json.Unmarshal(d.log.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Message == "connection" {
			t.Errorf("the access log is off, but there is a line: %s", d.log.Text())
		}
	}
}
