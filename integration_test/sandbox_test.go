package integration_test

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// threadStatus returns the different values of fields in the status of a process's threads.
func threadStatus(t *testing.T, pid int, fields ...string) (all []string) {
	t.Helper()
	dirs := threads(t, pid)
	if len(dirs) < 3 {
		t.Fatalf("threads of process %d: %q", pid, dirs)
	}
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range fields {
			line := regexp.MustCompile("(?m)^" + field + ":\t([^\n]*)$").FindSubmatch(text)
			all = append(all, field+" "+strings.ReplaceAll(string(line[1]), "\t", " "))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var capabilitySets = []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}

// Each thread of a gateway that root started has what the forwards need and nothing
// else, before and after an upgrade. The control, without a sandbox, keeps all.
func TestSandboxOfEachThread(t *testing.T) {
	t.Parallel()
	const none, transparent = "0000000000000000", "0000000000002400" // CAP_NET_BIND_SERVICE, CAP_NET_RAW
	for _, row := range []struct {
		name  string
		flags []string
		caps  string // "" is more than the forwards need
		uid   string
	}{
		{"plain", nil, none, "0"},
		{"transparent", []string{"--transparent", "--allow-source", "192.0.2.0/24"}, transparent, "0"},
		{"transparent with any port", []string{"--transparent", "--source-port", "any"}, "0000000000002000", "0"},
		{"mark", []string{"--mark", "5"}, "0000000000002000", "0"},
		{"another user", []string{"--user", "nobody"}, none, "65534"},
		{"another user, transparent", []string{"--user", "nobody:0", "--transparent"}, transparent, "65534"},
		{"strict", []string{"--sandbox", "strict"}, none, "0"},
		{"off", []string{"--sandbox", "off"}, "", "0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			netns.RunAsRoot(t, func(t *testing.T) {
				returnPath(t, "127.0.0.1:3000")
				backend := lab.Listen(t, "127.0.0.1:3000")
				g := startLine(t, lab.Command{}, slices.Concat([]string{
					"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--admin", "127.0.0.1:9180"}, row.flags)...)
				check := func(pid int) {
					t.Helper()
					for _, v := range threadStatus(t, pid, capabilitySets...) {
						if !strings.HasSuffix(v, " "+row.caps) && row.caps != "" {
							t.Errorf("%s, want %s", v, row.caps)
						}
					}
					want := fmt.Sprint([]string{"NoNewPrivs 1", "Uid " + strings.Repeat(" "+row.uid, 4)[1:]})
					if row.caps == "" {
						want = strings.Replace(want, "NoNewPrivs 1", "NoNewPrivs 0", 1)
					}
					if got := fmt.Sprint(threadStatus(t, pid, "NoNewPrivs", "Uid")); got != want {
						t.Errorf("%s, want %s", got, want)
					}
				}
				check(g.PID())
				conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("hello"))
				wantRead(t, backend.Next(t), "hello")
				conn.Close()
				g.upgrade()
				check(g.pid)
				conn = lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("again"))
				wantRead(t, backend.Next(t), "again")
				conn.Close()
			})
		})
	}
}

// Inside the strictest sandbox and as another user, what a gateway does after its start
// goes on: a reload of a list that was replaced, a change of /etc/hosts, a unix listener
// and its removal, an upgrade, and status and doctor, which report the sandbox.
func TestSandboxedLife(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		dir := lab.PublicDir(t, 0o777)
		list, socket := filepath.Join(dir, "trust"), filepath.Join(dir, "socket")
		save(t, list, "10.0.0.0/8")
		g := startLine(t, lab.Command{}, "--sandbox", "strict", "--user", "nobody", "--forward", "127.0.0.1:2000=localhost:3000",
			"--forward", "unix:"+socket+"=127.0.0.1:3000", "--trust-file", list, "--admin", "127.0.0.1:9180")
		info, err := os.Stat(socket)
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != 65534 {
			t.Errorf("the socket does not belong to the user: %+v, %v", info, err)
		}
		if conn, err := net.Dial("tcp", "127.0.0.1:2000"); err == nil { // it may be reset before
			conn.Close()
		}
		g.NextConnection(t).Expect(t, "outcome", "untrusted")
		// As an editor and as Kubernetes do: a new file in place of the old one.
		save(t, list+".new", "127.0.0.1")
		if err := os.Rename(list+".new", list); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if code, body := adminPost(t, "/-/reload"); code != 200 {
				t.Fatalf("reload: %d %s", code, body)
			}
			conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("hello"))
			wantRead(t, backend.Next(t), "hello")
			conn.Close()
			dialUnix(t, socket).Close()
			status, _ := lab.RunGateway(t, "status", "--admin", "127.0.0.1:9180")
			if want := "sandbox strict: user 65534, no capabilities, no new privileges, Landlock "; !strings.Contains(status, want) {
				t.Errorf("status has no %q:\n%s", want, status)
			}
			_, body := adminPost(t, "/-/examine")
			if !regexp.MustCompile(`"code": ?"sandbox"[^}]*user 65534, no capabilities`).MatchString(body) {
				t.Errorf("the doctor does not report the sandbox:\n%s", body)
			}
			g.upgrade()
		}
	})
}

// What the sandbox cannot do, and what it does not permit, is reported.
func TestSandboxProblems(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		for _, row := range []struct {
			flags []string
			want  string
			code  int
		}{
			{[]string{"--user", "no-such-user"}, `--user "no-such-user" is not a user`, 2},
			{[]string{"--user", "nobody:no-such-group"}, `no group "no-such-group"`, 2},
			{[]string{"--sandbox", "strikt"}, `did you mean --sandbox strict?`, 2},
		} {
			out, code := lab.RunGateway(t, slices.Concat([]string{"check", "--forward", ":1=127.0.0.1:2", "--trust", "any"}, row.flags)...)
			if code != row.code || !strings.Contains(out, row.want) {
				t.Errorf("%q: exit code %d: %s", row.flags, code, out)
			}
		}
		// A list that only root can read: the start is fine, a reload would not be.
		list := filepath.Join(lab.PublicDir(t, 0o777), "trust")
		save(t, list, "127.0.0.1")
		if err := os.Chmod(list, 0o600); err != nil {
			t.Fatal(err)
		}
		g := lab.StartGateway(t, "--user", "nobody", "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust-file", list)
		g.WaitLog(t, "a reload cannot read this list").Expect(t, "file", list)
		// Root without capabilities may not write in the directory of another user.
		dir := t.TempDir()
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		banFile := []string{"--forward", "127.0.0.1:2002=127.0.0.1:3000", "--trust", "127.0.0.1", "--ban-file", filepath.Join(dir, "bans")}
		if out, code := lab.RunGateway(t, banFile...); code != 1 || !strings.Contains(out, "bans cannot be written to "+dir) {
			t.Errorf("a directory of another user: exit code %d: %s", code, out)
		}
		lab.StartGateway(t, append(banFile, "--user", "nobody")...) // the control
		// Without root there is no other user to become.
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		out, code := lab.Run(t, lab.Command{Name: lab.Binary(t), User: nobody, Args: []string{
			"--user", "root", "--forward", "127.0.0.1:2001=127.0.0.1:3000", "--trust", "127.0.0.1"}})
		if code != 1 || !strings.Contains(out, "hint: --user needs root") {
			t.Errorf("as nobody: exit code %d: %s", code, out)
		}
	})
}

// The user of --user cannot delete a socket's file from a directory of root. It stays after the
// exit, and the next start replaces it: of a forward, the admin and the health endpoint. In a
// directory that the user may write in, no file stays.
func TestSocketsLeftInDirectoryOfRoot(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		for _, row := range []struct {
			mode  os.FileMode
			stays bool
		}{{0o755, true}, {0o777, false}} {
			dir := lab.PublicDir(t, row.mode)
			at := func(name string) string { return "unix:" + filepath.Join(dir, name) }
			for range 2 {
				g := lab.StartGateway(t, "--user", "nobody", "--forward", at("forward")+"=127.0.0.1:3000",
					"--admin", at("admin"), "--health", at("health"))
				g.WaitLog(t, "ready")
				conn := dialUnix(t, filepath.Join(dir, "forward"))
				conn.Write(append(lab.V2(client4, dest4), "hello"...))
				server := backend.Next(t)
				wantRead(t, server, "hello")
				conn.Close()
				server.Close() // the drain need not wait
				for _, flag := range []string{"--admin=" + at("admin"), "--health=" + at("health")} {
					if out, code := lab.RunGateway(t, "healthcheck", flag); code != 0 {
						t.Errorf("mode %o: healthcheck %s: exit code %d: %s", row.mode, flag, code, out)
					}
				}
				g.Signal(syscall.SIGTERM)
				if code := g.Wait(t); code != 0 {
					t.Errorf("mode %o: exit code %d", row.mode, code)
				}
				for _, name := range []string{"forward", "admin", "health"} {
					info, err := os.Lstat(filepath.Join(dir, name))
					if stays := err == nil && info.Mode().Type() == os.ModeSocket; stays != row.stays {
						t.Errorf("mode %o: the socket %s stays: %v, %v", row.mode, name, stays, err)
					}
				}
			}
		}
	})
}

func save(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
