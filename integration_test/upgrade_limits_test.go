package integration_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// lastLog returns the last line of the log with the message.
func lastLog(g *lab.Gateway, message string) (last lab.Line) {
	for _, l := range g.Log() {
		if l.String("message") == message {
			last = l
		}
	}
	return last
}

// The descriptors that an upgrade, a reload, an examination and the admin endpoint
// need are there at the limit of connections, too, as are those of the health endpoint:
//
//	max_connections × conn ──header──▶ gateway :2000-2299, 1024 descriptors ──▶ echo :3000
//	16 × silent            ──▶ --admin ◀── POST /-/examine
//	16 × silent            ──▶ --health
//	                            ◀── SIGHUP, SIGUSR2
func TestUpgradeAtTheLimit(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		path, admin, health := linked(t), filepath.Join(t.TempDir(), "admin"), filepath.Join(t.TempDir(), "health")
		replace(t, path, `ulimit -n 1024; exec $UNPROXY "$@"`)
		g := startLine(t, lab.Command{Name: path}, "--trust", "127.0.0.1", "--forward", "127.0.0.1:2000-2299=127.0.0.1:3000",
			"--admin", "unix:"+admin, "--health", "unix:"+health, "--drain-timeout", "1h", "--loops", "2")
		limit := int(lastLog(g.Gateway, "ready")["max_connections"].(float64))
		if limit < 50 {
			t.Fatalf("room for %d connections is not worth a test", limit)
		}
		var conns []net.Conn
		for i := range limit {
			conn := lab.Send(t, fmt.Sprintf("127.0.0.1:%d", 2000+i%300), lab.V2(client4, dest4), []byte("hello"))
			wantRead(t, conn, "hello")
			conns = append(conns, conn)
		}
		for range 15 {
			dialUnix(t, admin)
		}
		for range 16 {
			dialUnix(t, health)
		}
		response, err := adminClient("unix:"+admin).Post("http://localhost/-/examine", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode >= 300 {
			t.Errorf("/-/examine: %s", response.Status)
		}
		dialUnix(t, admin)
		g.signal(syscall.SIGHUP)
		g.Gateway.WaitLogs(t, reloadedMessage, 1)
		g.signal(syscall.SIGUSR2)
		await.Until(t, "the upgrade ends", func() bool {
			return lastLog(g.Gateway, tookOver) != nil || lastLog(g.Gateway, upgradeFailed) != nil
		})
		if l := lastLog(g.Gateway, upgradeFailed); l != nil {
			t.Fatalf("with %d connections and 300 listeners: %s", limit, l.String("error"))
		}
		for _, conn := range conns {
			write(t, conn, []byte("again"))
			wantRead(t, conn, "again")
		}
	})
}

// The successor gets the sockets of more listeners than a variable of the
// environment can name (MAX_ARG_STRLEN, 128 KiB, execve(2)):
//
//	gateway :10000-13999 ◀── SIGUSR2
func TestUpgradeOfManyListeners(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		needDescriptors(t, 10_000)
		lab.Echo(t, "127.0.0.1:3000")
		g := startLine(t, lab.Command{}, "--trust", "127.0.0.1", "--forward", "127.0.0.1:10000-13999=127.0.0.1:3000")
		g.signal(syscall.SIGUSR2)
		await.Until(t, "the upgrade ends", func() bool {
			return lastLog(g.Gateway, tookOver) != nil || lastLog(g.Gateway, upgradeFailed) != nil
		})
		if l := lastLog(g.Gateway, upgradeFailed); l != nil {
			t.Fatalf("of 4000 listeners: %.500s", l.String("error"))
		}
		var listening []string // a line for each process, not one for each port
		for _, l := range g.Log() {
			if l.String("message") == "listening" {
				listening = append(listening, l.String("forward")+" "+l.String("address"))
			}
		}
		const want = "127.0.0.1:10000-13999 127.0.0.1:10000-13999"
		if !slices.Equal(listening, []string{want, want}) {
			t.Errorf("listening: %.300q", listening)
		}
		for _, port := range []int{10000, 13999} {
			conn := lab.Send(t, fmt.Sprintf("127.0.0.1:%d", port), lab.V2(client4, dest4), []byte("hello"))
			wantRead(t, conn, "hello")
		}
	})
}

// The error of an upgrade names a few listeners and counts the others:
//
//	gateway :2000-2299, without a descriptor left ◀── SIGUSR2
func TestUpgradeErrorIsShort(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		systemd := lab.NewSystemd(t)
		g := startLine(t, lab.Command{Env: systemd.Environment()},
			"--trust", "127.0.0.1", "--forward", "127.0.0.1:2000-2299=127.0.0.1:3000")
		limit := uint64(openDescriptors(t, g.PID()) + 5) // a few for the notification
		if err := unix.Prlimit(g.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil {
			t.Fatal(err)
		}
		g.signal(syscall.SIGUSR2)
		await.Until(t, "the upgrade ends", func() bool { return lastLog(g.Gateway, upgradeFailed) != nil })
		text := lastLog(g.Gateway, upgradeFailed).String("error")
		if len(text) > 400 || !strings.Contains(text, "too many open files") || !strings.Contains(text, " more") {
			t.Errorf("the error has %d bytes: %.600s", len(text), text)
		}
		systemd.WaitMessage(t, "the last upgrade failed: ")
	})
}

// What a successor that never serves has started ends with it. Left behind, it would
// hold the listening sockets: connections would wait in their queues for ever.
//
//	gateway :2000 ◀── SIGUSR2
//	  └─ successor ── child, with the socket
func TestUpgradeLeavesNoChildren(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, script string }{
		{"of a successor that hangs", "sleep 300; exit 1"},
		{"of one that crashes", "sleep 300 & exit 3"},
		{"of one that is given up", "sleep 300; exit 1"},
		{"a grandchild", "(sleep 300; true) & wait; exit 1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				timeout := "1s"
				if strings.HasSuffix(row.name, "given up") {
					timeout = "1h"
				}
				path := linked(t)
				g := startLine(t, lab.Command{Name: path}, "--trust", "127.0.0.1", "--forward", "127.0.0.1:2000=127.0.0.1:3000",
					"--upgrade-timeout", timeout)
				replace(t, path, row.script)
				g.signal(syscall.SIGUSR2)
				if timeout == "1s" {
					g.Gateway.WaitLogs(t, upgradeFailed, 1)
				} else {
					g.WaitLine(t, "upgrade: started the new process")
				}
				g.signal(syscall.SIGTERM)
				if code := g.Wait(t); code != 0 {
					t.Errorf("exit code %d, want 0", code)
				}
				await.Until(t, "the socket is closed", func() bool { return refuses("127.0.0.1:2000") })
			})
		})
	}
}

// After the upgrade the successor is in the process group of the process before it,
// where shells and supervisors find it:
//
//	gateway, group P ◀── SIGUSR2
//	successor, group P
func TestUpgradeKeepsTheProcessGroup(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g := startLine(t, lab.Command{}, "--trust", "127.0.0.1", "--forward", "127.0.0.1:2000=127.0.0.1:3000")
		before, err := unix.Getpgid(g.pid)
		if err != nil {
			t.Fatal(err)
		}
		g.upgrade()
		if now, err := unix.Getpgid(g.pid); err != nil || now != before {
			t.Errorf("process group %d, %v; want %d", now, err, before)
		}
		g.end()
	})
}
