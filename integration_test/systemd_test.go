package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// The messages to systemd in the life of a service, in order:
//
//	systemd ◀── READY, RELOADING, READY, STOPPING, STATUS ── gateway :2000
func TestNotifiesSystemd(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		systemd := lab.NewSystemd(t)
		list := lab.WriteFile(t, "trust", "127.0.0.1\n")
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGatewayAs(t, lab.Command{Env: systemd.Environment()},
			"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust-file", list, "--drain-timeout", "1h")
		if m := systemd.WaitMessage(t, "READY=1"); !strings.Contains(m, "STATUS=serving on 1 listener") {
			t.Errorf("systemd received %q", m)
		}
		g.Signal(syscall.SIGHUP)
		if m := systemd.WaitMessage(t, "RELOADING=1"); !strings.Contains(m, "\nMONOTONIC_USEC=") {
			t.Errorf("notified %q without MONOTONIC_USEC, which Type=notify-reload needs", m)
		}
		systemd.WaitMessage(t, "READY=1")
		rewrite(t, list, "nobody at all\n")
		g.Signal(syscall.SIGHUP)
		systemd.WaitMessage(t, "RELOADING=1")
		if m := systemd.WaitMessage(t, "READY=1"); !strings.Contains(m, "the last reload failed") ||
			!strings.Contains(m, list+":1") {
			t.Errorf("after a broken list systemd received %q", m)
		}

		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		behind := backend.Next(t)
		g.Signal(syscall.SIGTERM)
		stopping := systemd.WaitMessage(t, "STOPPING=1")
		if !strings.Contains(stopping, "draining: 1 connection left") ||
			!strings.Contains(stopping, "EXTEND_TIMEOUT_USEC=3605000000") {
			t.Errorf("systemd received %q", stopping)
		}
		systemd.WaitMessage(t, "STATUS=draining: 1 connection left, cut in 59m")
		conn.Close()
		behind.Close()
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		for _, m := range systemd.Messages()[len(systemd.Messages())-1:] {
			if strings.Contains(m, "READY=1") {
				t.Errorf("the last message to systemd is %q", m)
			}
		}
	})
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The watchdog is fed while the loops answer, during the drain too:
//
//	systemd ◀── WATCHDOG=1 ── gateway :2000
func TestWatchdogIsFedDuringDrain(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		systemd := lab.NewSystemd(t)
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGatewayAs(t, lab.Command{Env: systemd.Environment("WATCHDOG_USEC=300000")},
			"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1")
		systemd.WaitMessage(t, "READY=1")
		for range 3 {
			systemd.WaitMessage(t, "WATCHDOG=1")
		}
		lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		backend.Next(t)
		g.Signal(syscall.SIGTERM)
		systemd.WaitMessage(t, "STOPPING=1")
		for range 3 {
			systemd.WaitMessage(t, "WATCHDOG=1")
		}
		g.Signal(syscall.SIGTERM)
		g.Wait(t)
	})
}

// Sockets that systemd hands over are served by their names. Connections that come
// while there is no service wait in their queues for the next one:
//
//	conn ──header──▶ "tcp" 127.0.0.1:2000 ─┐
//	conn ──header──▶ "local" unix socket  ─┴▶ gateway, and the next one ──▶ backend :3000
func TestActivatedSocketsQueueConnections(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		path := filepath.Join(t.TempDir(), "s")
		tcp, local := lab.Socket(t, "tcp", "127.0.0.1:2000"), lab.Socket(t, "unix", path)
		spare := lab.Socket(t, "tcp", "127.0.0.1:2001")
		service := func() *lab.Gateway {
			return lab.StartGatewayAs(t, lab.Activated(t, "tcp:local:spare", tcp, local, spare),
				"--forward", "systemd:local=127.0.0.1:3000", "--forward", "systemd:tcp=127.0.0.1:3000", "--trust", "127.0.0.1")
		}
		first := service()
		if a := first.Address(t, 1); a != "127.0.0.1:2000" {
			t.Errorf("listening on %s", a)
		}
		first.WaitLog(t, "inherited socket not used by any forward").
			Expect(t, "level", "warn", "socket", "systemd:spare",
				"hint", "--forward systemd:spare=BACKEND, or remove it from the .socket unit")
		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("first"))
		wantRead(t, backend.Next(t), "first")
		conn.Close()
		unix := dialUnix(t, path)
		write(t, unix, append(lab.V2(client4, dest4), "local"...))
		wantRead(t, backend.Next(t), "local")
		unix.Close()
		first.Signal(syscall.SIGTERM)
		first.WaitLine(t, "draining")
		first.Signal(syscall.SIGTERM)
		if code := first.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}

		waiting := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("second"))
		second := service()
		behind := backend.Next(t)
		wantRead(t, behind, "second")
		waiting.Close()
		behind.Close()
		second.NextConnection(t).Expect(t, "forward", "systemd:tcp")
	})
}

// Sockets and names that do not fit are errors, with a hint.
func TestActivationErrorsHaveHints(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		datagram, listener := udpFile(t), lab.Socket(t, "tcp", "127.0.0.1:2000")
		rows := []struct {
			name, names string
			files       []*os.File
			flags       string
			error, hint string
		}{
			{"another name", "www", []*os.File{listener}, "--trust 127.0.0.1",
				"systemd hands over no socket of that name", "it hands over www: write systemd:www"},
			{"none at all", "", nil, "--trust 127.0.0.1",
				"systemd hands over no socket of that name", "FileDescriptorName=web"},
			{"the wrong type", "web", []*os.File{datagram}, "--trust 127.0.0.1",
				`the socket "web" that systemd hands over is not a stream socket`, "ListenStream="},
			{"no trust rule", "web", []*os.File{listener}, "",
				"there is no trust rule: no peer may name a client", "--trust 10.0.0.0/8"},
			{"names that do not fit", "web:other", []*os.File{listener}, "--trust 127.0.0.1",
				"has 2 names, but LISTEN_FDS is 1", ""},
		}
		for _, row := range rows {
			c := lab.Activated(t, row.names, row.files...)
			c.Args = append([]string{"--forward", "systemd:web=127.0.0.1:3000"}, strings.Fields(row.flags)...)
			output, code := lab.Run(t, c)
			if code == 0 || !strings.Contains(output, row.error) || !strings.Contains(output, row.hint) {
				t.Errorf("%s: exit code %d:\n%s\nwant %q with the hint %q", row.name, code, output, row.error, row.hint)
			}
		}
		output, code := lab.RunGateway(t, "check", "--forward", "systemd:web=127.0.0.1:3000", "--trust", "127.0.0.1")
		if code != 0 || !strings.Contains(output, "systemd:web -> 127.0.0.1:3000") {
			t.Errorf("check, which opens no socket: exit code %d:\n%s", code, output)
		}
	})
}

// systemd-socket-activate starts the gateway at the first connection, and the gateway
// serves that one:
//
//	conn ──header──▶ systemd-socket-activate :2000 ──▶ gateway ──▶ backend :3000
func TestSocketActivate(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "systemd-socket-activate")
		backend := lab.Listen(t, "127.0.0.1:3000")
		p := lab.Start(t, lab.Command{Name: "systemd-socket-activate",
			Args: []string{"--listen=127.0.0.1:2000", "--fdname=web",
				lab.Binary(t), "--forward", "systemd:web=127.0.0.1:3000", "--trust", "127.0.0.1", "--log-format", "json"}})
		lab.WaitListening(t, "127.0.0.1:2000")
		lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("wake up"))
		wantRead(t, backend.Next(t), "wake up")
		p.WaitLine(t, `"message":"ready"`)
	})
}
