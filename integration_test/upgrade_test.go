package integration_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

const (
	tookOver      = "took over from the previous process"
	upgradeFailed = "upgrade failed: this process continues to serve"
)

// line is a gateway and the processes that take over from it, one after the other. All
// write to one log.
type line struct {
	*testing.T
	*lab.Gateway
	pid      int // of the process that serves now
	upgrades int // successful ones
}

// startLine starts the first process. All processes of the line end with the test.
func startLine(t *testing.T, c lab.Command, flags ...string) *line {
	t.Helper()
	if !slices.Contains(flags, "--upgrade-timeout") {
		flags = append(flags, "--upgrade-timeout", await.Patience.String())
	}
	l := &line{T: t, Gateway: lab.StartGatewayAs(t, c, flags...)}
	l.pid = l.PID()
	t.Cleanup(func() {
		for _, pid := range l.pids() {
			if pid != l.PID() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return l
}

// pids returns all processes that became ready.
func (l *line) pids() []int {
	var all []int
	for _, entry := range l.Log() {
		if pid, ok := entry["pid"].(float64); ok && entry.String("message") == "ready" {
			all = append(all, int(pid))
		}
	}
	return all
}

// signal sends a signal to the process that serves.
func (l *line) signal(s syscall.Signal) {
	l.Helper()
	if err := syscall.Kill(l.pid, s); err != nil {
		l.Fatal(err)
	}
}

// upgrade sends SIGUSR2 and waits until another process serves.
func (l *line) upgrade() {
	l.Helper()
	l.signal(syscall.SIGUSR2)
	l.upgrades++
	l.Gateway.WaitLogs(l.T, tookOver, l.upgrades)
	pids := l.pids()
	l.pid = pids[len(pids)-1]
}

// end drains the last process and waits for all of them.
func (l *line) end() {
	l.Helper()
	l.signal(syscall.SIGTERM)
	for _, pid := range l.pids() {
		if pid != l.PID() {
			lab.Gone(l.T, pid)
		}
	}
	if code := l.Wait(l.T); code != 0 {
		l.Errorf("exit code %d of the first process, want 0", code)
	}
}

// load calls a function again and again in each of several goroutines, and collects its errors.
type load struct {
	*testing.T
	once    func() error
	done    chan struct{}
	running sync.WaitGroup
	served  atomic.Int64
	mu      sync.Mutex
	failed  []error
}

func startLoad(t *testing.T, goroutines int, once func() error) *load {
	l := &load{T: t, once: once, done: make(chan struct{})}
	for range goroutines {
		l.running.Go(l.run)
	}
	return l
}

func (l *load) run() {
	for {
		select {
		case <-l.done:
			return
		case <-l.Context().Done(): // the test ended without stopping it
			return
		default:
		}
		if err := l.once(); err != nil {
			l.mu.Lock()
			l.failed = append(l.failed, err)
			l.mu.Unlock()
			continue
		}
		l.served.Add(1)
	}
}

// goesOn waits until more connections have been served.
func (l *load) goesOn() {
	l.Helper()
	before := l.served.Load()
	await.Until(l, "the load continues", func() bool { return l.served.Load() > before+50 })
}

// failures returns the errors so far.
func (l *load) failures() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failed)
}

// end ends the load and returns all errors.
func (l *load) end() []error {
	l.Helper()
	close(l.done)
	l.running.Wait()
	l.Logf("%d connections were served, %d failed", l.served.Load(), len(l.failed))
	return l.failed
}

// stop ends the load and fails the test on any error.
func (l *load) stop() {
	l.Helper()
	failed := l.end()
	for i, err := range failed {
		if i < 10 {
			l.Errorf("a connection failed: %v", err)
		}
	}
	if len(failed) > 0 {
		l.Errorf("%d connections failed", len(failed))
	}
}

// echoes returns a function for a load that makes a connection to an address, with a header, a request and its
// answer.
func echoes(t *testing.T, address string) func() error {
	const request = "request"
	return func() error {
		conn, err := net.DialTimeout("tcp", address, await.Patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(await.Deadline(t))
		if _, err := conn.Write(append(lab.V2(client4, dest4), request...)); err != nil {
			return err
		}
		answer := make([]byte, len(request))
		if _, err := io.ReadFull(conn, answer); err != nil {
			return err
		}
		if string(answer) != request {
			return fmt.Errorf("the response is %q", answer)
		}
		// A reset frees the port at once, without TIME_WAIT.
		return conn.(*net.TCPConn).SetLinger(0)
	}
}

// During ten upgrades under load no connection is refused or reset, and no process
// remains:
//
//	8 × (conn ──header, request──▶ gateway :2000 ◀── SIGUSR2, 10 ×)
//	                                  └──▶ echo :3000
func TestUpgradeUnderLoad(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"its own socket", "systemd's socket"} {
		t.Run(how, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				lab.Echo(t, "127.0.0.1:3000")
				listen, c := "127.0.0.1:2000", lab.Command{}
				if how == "systemd's socket" {
					listen = "systemd:web"
					c = lab.Activated(t, "web", lab.Socket(t, "tcp", "127.0.0.1:2000"))
				}
				g := startLine(t, c, "--forward", listen+"=127.0.0.1:3000", "--trust", "127.0.0.1",
					"--access-log", "off", "--log-level", "info")
				load := startLoad(t, 8, echoes(t, "127.0.0.1:2000"))
				for range 10 {
					load.goesOn()
					g.upgrade()
				}
				load.goesOn()
				load.stop()
				if n := len(g.pids()); n != 11 {
					t.Errorf("%d processes served, want 11", n)
				}
				g.end()
			})
		})
	}
}

// Established connections stay with the old process until they end. systemd learns
// the new main process, and hears nothing more from the old one:
//
//	systemd ◀── MAINPID ── gateway :2000, unix socket ◀── SIGUSR2
//	conn ──header──▶ old ──▶ behind :3000 ◀── new ◀──header── conn
func TestUpgradeKeepsConnections(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		systemd := lab.NewSystemd(t)
		backend := lab.Listen(t, "127.0.0.1:3000")
		path := filepath.Join(t.TempDir(), "s")
		g := startLine(t, lab.Command{Env: systemd.Environment("WATCHDOG_USEC=300000")}, "--trust", "127.0.0.1",
			"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--forward", "unix:"+path+"=127.0.0.1:3000",
			"--forward", "127.0.0.1:0=127.0.0.1:3000")
		anyPort := g.Address(t, 2)
		systemd.WaitMessage(t, "READY=1")
		old := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		behind := backend.Next(t)
		oldPID := g.pid
		g.upgrade()
		systemd.WaitMessage(t, fmt.Sprintf("MAINPID=%d\n", g.pid))
		systemd.WaitMessage(t, "READY=1") // of the new process
		systemd.WaitMessage(t, "WATCHDOG=1")
		for _, address := range []string{"127.0.0.1:2000", anyPort} {
			fresh := lab.Send(t, address, lab.V2(client4, dest4), []byte("fresh"))
			wantRead(t, backend.Next(t), "fresh")
			fresh.Close()
		}
		write(t, old, []byte("still here"))
		wantRead(t, behind, "still here")
		if g.ended(oldPID) {
			t.Error("the old process ended with a connection open")
		}
		old.Close()
		behind.Close()
		lab.Gone(t, oldPID)
		unix := dialUnix(t, path)
		write(t, unix, append(lab.V2(client4, dest4), "local"...))
		wantRead(t, backend.Next(t), "local")
		unix.Close()
		for _, m := range systemd.Messages() {
			if strings.Contains(m, "STOPPING=1") || strings.Contains(m, "draining") {
				t.Errorf("the old process sent systemd %q", m)
			}
		}
		g.signal(syscall.SIGTERM)
		systemd.WaitMessage(t, "STOPPING=1")
		g.signal(syscall.SIGTERM)
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the last process left the file of its socket: %v", err)
		}
	})
}

func (l *line) ended(pid int) bool { return syscall.Kill(pid, 0) != nil }

// linked returns the path of a link to the gateway, which a test can replace.
func linked(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "unproxy")
	if err := os.Symlink(lab.Binary(t), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// replace puts a script in the place of the program. In it $UNPROXY is the gateway.
func replace(t *testing.T, path, script string) {
	t.Helper()
	text := fmt.Sprintf("#!/bin/sh\nUNPROXY=%s\n%s\n", lab.Binary(t), script)
	if err := os.WriteFile(path+".new", []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// restore undoes replace.
func restore(t *testing.T, path string) {
	t.Helper()
	replace(t, path, `exec $UNPROXY "$@"`)
}

// The program at the path that was started takes over, whatever it is now. Listeners
// that it does not have are closed, and new ones opened:
//
//	:2000, :2001, unix a, port 0 ──▶ gateway ◀── SIGUSR2
//	:2000, :2002, unix b         ──▶ the next one
func TestUpgradeToOtherForwards(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		path, a, b := linked(t), filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
		g := startLine(t, lab.Command{Name: path}, "--sandbox", "off", "--trust", "127.0.0.1",
			"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--forward", "127.0.0.1:2001=127.0.0.1:3000",
			"--forward", "unix:"+a+"=127.0.0.1:3000", "--forward", "127.0.0.1:0=127.0.0.1:3000")
		anyPort := g.Address(t, 3)
		replace(t, path, "exec $UNPROXY --trust 127.0.0.1 --log-format json --forward 127.0.0.1:2000=127.0.0.1:3000 "+
			"--forward 127.0.0.1:2002=127.0.0.1:3000 --forward unix:"+b+"=127.0.0.1:3000")
		g.upgrade()
		for _, address := range []string{"127.0.0.1:2001", anyPort} {
			await.Until(t, "the listener on "+address+" is closed", func() bool { return refuses(address) })
		}
		for _, address := range []string{"127.0.0.1:2000", "127.0.0.1:2002"} {
			conn := lab.Send(t, address, lab.V2(client4, dest4), []byte("hello"))
			wantRead(t, backend.Next(t), "hello")
			conn.Close()
		}
		dialUnix(t, b).Close()
		await.Until(t, "the file of the closed socket is removed", func() bool {
			_, err := os.Stat(a)
			return errors.Is(err, os.ErrNotExist)
		})
		g.signal(syscall.SIGTERM)
	})
}

// A successor that never serves changes nothing, and the log says why. The old process
// keeps the file of its unix socket:
//
//	conn ──header──▶ gateway :2000, unix socket ◀── SIGUSR2, again and again
func TestFailedUpgradeChangesNothing(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newFailedUpgrades(t)
		busy := lab.Listen(t, "127.0.0.1:2002")
		for _, row := range []struct{ name, script, want string }{
			{"a program that crashes", "exit 3", "ended before it was ready: exit status 3"},
			{"one that does not know a flag", "exec $UNPROXY --new-flag", "ended before it was ready: exit status 2"},
			{"a port in use", `exec $UNPROXY "$@" --forward ` + busy.Addr + `=127.0.0.1:3000`, "listen on " + busy.Addr},
			{"a wrong flag", `exec $UNPROXY "$@" --header-timeout never`, `--header-timeout "never"`},
		} {
			replace(t, s.program, row.script)
			s.fails(row.name, row.want)
		}
		rewrite(t, s.program, "not a program")
		s.fails("a file that is no program", "exec format error")
		restore(t, s.program)
		s.upgrade()
		dialUnix(t, s.local).Close()
		s.signal(syscall.SIGTERM)
	})
}

// A new process that is not ready in time is killed:
//
//	conn ──header──▶ gateway :2000, unix socket, --upgrade-timeout 1s ◀── SIGUSR2
func TestUpgradeTimesOut(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newFailedUpgrades(t, "--upgrade-timeout", "1s")
		replace(t, s.program, "exec sleep 60")
		s.fails("a program that hangs", "was not ready after 1s")
		s.signal(syscall.SIGTERM)
	})
}

// failedUpgrades is a gateway whose program can be replaced. It must keep serving when an
// upgrade fails.
type failedUpgrades struct {
	*line
	systemd *lab.Systemd
	backend *lab.Backend
	program string // the path that was started
	local   string // the path of the unix socket
	count   int
}

func newFailedUpgrades(t *testing.T, flags ...string) *failedUpgrades {
	t.Helper()
	s := &failedUpgrades{systemd: lab.NewSystemd(t), backend: lab.Listen(t, "127.0.0.1:3000"),
		program: linked(t), local: filepath.Join(t.TempDir(), "s")}
	s.line = startLine(t, lab.Command{Name: s.program, Env: s.systemd.Environment()}, append(flags, "--trust", "127.0.0.1",
		"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--forward", "unix:"+s.local+"=127.0.0.1:3000")...)
	return s
}

// fails starts an upgrade, which must fail with an error that contains want.
func (s *failedUpgrades) fails(name, want string) {
	s.Helper()
	s.signal(syscall.SIGUSR2)
	s.count++
	s.Gateway.WaitLogs(s.T, upgradeFailed, s.count)
	lines := s.Gateway.Logged(upgradeFailed)
	last := lines[len(lines)-1]
	last.Expect(s.T, "level", "error")
	if got := last.String("error"); !strings.Contains(got, want) {
		s.Errorf("%s: the error is %q, want %q", name, got, want)
	}
	s.systemd.WaitMessage(s.T, "the last upgrade failed: ")
	conn := lab.Send(s.T, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("hello"))
	wantRead(s.T, s.backend.Next(s.T), "hello")
	conn.Close()
	dialUnix(s.T, s.local).Close()
}

// There is one upgrade at a time, and none while the gateway drains. A drain gives up
// an upgrade that is under way:
//
//	gateway ◀── SIGUSR2, SIGUSR2, SIGTERM, SIGUSR2
func TestUpgradeOneAtATime(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		path := linked(t)
		g := startLine(t, lab.Command{Name: path},
			"--trust", "127.0.0.1", "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--drain-timeout", "1h")
		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		behind := backend.Next(t)
		replace(t, path, "exec sleep 60")
		g.signal(syscall.SIGUSR2)
		g.WaitLine(t, "upgrade: started the new process")
		g.signal(syscall.SIGUSR2)
		g.WaitLog(t, "upgrade refused").Expect(t, "reason", "an upgrade is in progress", "level", "warn")
		g.signal(syscall.SIGTERM)
		g.WaitLog(t, "upgrade cancelled: the gateway is draining")
		g.signal(syscall.SIGUSR2)
		g.WaitLine(t, `"reason":"the gateway is draining"`)
		write(t, conn, []byte("still here"))
		wantRead(t, behind, "still here")
		conn.Close()
		behind.Close()
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

// The admin endpoint and the health endpoint are handed over: the process that serves
// answers every request, on TCP and on a unix socket, and the last process removes the
// file:
//
//	GET /readyz ──▶ --admin or --health, gateway ◀── SIGUSR2, 2 ×
func TestUpgradeWithEndpoint(t *testing.T) {
	for _, tt := range []struct{ option, network string }{
		{"--admin", "tcp"}, {"--admin", "unix"}, {"--health", "tcp"}, {"--health", "unix"},
	} {
		network := tt.network
		t.Run(tt.option+" "+network, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				backend := lab.Listen(t, "127.0.0.1:3000")
				path := filepath.Join(t.TempDir(), "admin")
				address := "unix:" + path
				if network == "tcp" {
					address = adminAt
				}
				g := startLine(t, lab.Command{}, "--trust", "127.0.0.1", "--forward", "127.0.0.1:2000=127.0.0.1:3000",
					tt.option, address, "--drain-timeout", "1h")
				// With a session the old process stays, and must not answer.
				conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
				behind := backend.Next(t)
				asking, asked := make(chan struct{}), make(chan string, 1)
				go func() {
					defer close(asked)
					for answers := 0; ; answers++ {
						select {
						case <-asking:
							return
						default:
						}
						if got := readyz(address); got != "200 OK" {
							asked <- got
							return
						}
					}
				}()
				for range 2 {
					g.upgrade()
				}
				close(asking)
				if got, failed := <-asked; failed {
					t.Errorf("during the upgrades /readyz answered %q", got)
				}
				conn.Close()
				behind.Close()
				g.end()
				if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the file of the socket remains: %v", err)
				}
			})
		})
	}
}

// As process 1 of a container it refuses: the container would end with it.
func TestUpgradeOfProcessOne(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		p := lab.Start(t, lab.Command{Name: "unshare", Args: []string{"--pid", "--fork", "--kill-child", lab.Binary(t),
			"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--log-format", "json"}})
		p.WaitLine(t, `"message":"ready"`)
		children := string(readFile(t, fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID())))
		pid, err := strconv.Atoi(strings.TrimSpace(children))
		if err != nil {
			t.Fatalf("the children of unshare are %q", children)
		}
		if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		p.WaitLine(t, "process 1 of its container")
		if refuses("127.0.0.1:2000") {
			t.Error("it no longer serves")
		}
		p.Signal(syscall.SIGKILL) // unshare ignores SIGTERM; the gateway ends with it
	})
}
