package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// childMark is the variable that makes the test binary the process in the sandbox. Its
// value is the plan as JSON.
const childMark = "UNPROXY_SANDBOX_TEST"

// plan is what the child applies and tries.
type plan struct {
	Policy
	// Allowed and Denied are directories whose file "secret" it reads, and in which it
	// tries to write.
	Readable, Secret, Writable string
	Program                    string
}

// result is what the child could do, and what is in force.
type result struct {
	Report
	Error string
	Did   map[string]string // "" if it succeeded, else the error
}

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(childMark); ok {
		json.NewEncoder(os.Stdout).Encode(play(text))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play applies the plan while other threads exist, and tries from a new thread and from
// an old one what it forbids.
func play(text string) (r result) {
	var p plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return result{Error: err.Error()}
	}
	start, ended := make(chan struct{}), make(chan map[string]string)
	go func() {
		runtime.LockOSThread()
		<-start
		ended <- p.try()
	}()
	report, err := p.Apply()
	r.Report, r.Did = report, p.try()
	if err != nil {
		r.Error = err.Error()
	}
	close(start)
	if old := <-ended; fmt.Sprint(old) != fmt.Sprint(r.Did) {
		r.Error = fmt.Sprintf("an older thread: %v", old)
	}
	return r
}

// try does what an attacker would.
func (p plan) try() map[string]string {
	did := map[string]string{}
	note := func(what string, err error) {
		did[what] = ""
		if err != nil {
			did[what] = err.Error()
			for errno := syscall.Errno(0); errors.As(err, &errno); {
				did[what] = unix.ErrnoName(errno)
				break
			}
		}
	}
	read := func(dir string) error { _, err := os.ReadFile(filepath.Join(dir, "file")); return err }
	write := func(dir string) error {
		name := filepath.Join(dir, "new")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			return err
		}
		return os.Remove(name)
	}
	note("read what is permitted", read(p.Readable))
	note("read a secret", read(p.Secret))
	note("read a link to a secret", read(filepath.Join(p.Readable, "link")))
	note("write where it may read", write(p.Readable))
	note("write where it may", write(p.Writable))
	note("write elsewhere", write(p.Secret))
	note("run the program", exec.Command(p.Program).Run())
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err == nil {
		unix.Close(fd)
	}
	note("raw socket", err)
	note("become root", syscall.Setuid(0))
	note("become another user", syscall.Setresuid(-1, 12345, -1))
	if did["become another user"] == "" {
		syscall.Setresuid(-1, 0, -1) // for what follows
	}
	l, err := net.Listen("tcp4", "127.0.0.1:1")
	if err == nil {
		l.Close()
	}
	note("privileged port", err)
	note("change the host name", unix.Sethostname([]byte("x")))
	return did
}

// scene makes the directories.
func scene(t *testing.T) plan {
	t.Helper()
	p := plan{Readable: t.TempDir(), Secret: t.TempDir(), Writable: t.TempDir(), Program: buildTrue(t)}
	for _, dir := range []string{p.Readable, p.Secret, p.Writable} {
		// Others must be able to enter, for a child that becomes another user.
		for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			os.Chmod(d, 0o777)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(p.Secret, filepath.Join(p.Readable, "link")); err != nil {
		t.Fatal(err)
	}
	return p
}

// busybox is Debian's static program of many names. It stands in for Go in scripts/kernels.
const busybox = "/bin/busybox"

// buildTrue makes a static program that succeeds.
func buildTrue(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	program := filepath.Join(dir, "true")
	if _, err := exec.LookPath("go"); err != nil {
		content, err := os.ReadFile(busybox)
		if err != nil {
			t.Skipf("neither Go nor %v", err)
		}
		if err := os.WriteFile(program, content, 0o755); err != nil {
			t.Fatal(err)
		}
		return program
	}
	source := filepath.Join(dir, "true.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// run plays a plan as root, in network and UTS namespaces of its own.
func run(t *testing.T, p plan) result {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), childMark+"="+string(text))
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS}
	if os.Getuid() != 0 {
		t.Skip("needs root: the child has to have capabilities to drop")
	}
	out, err := child.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r
}

// What the process can no longer do, row by row. The first rows are the control: outside
// the sandbox root can do all of it.
func TestApply(t *testing.T) {
	const denied, ok = "EACCES", ""
	for _, row := range []struct {
		name   string
		adjust func(*plan)
		caps   []string
		want   map[string]string
	}{
		{"off", func(p *plan) { p.Mode = Off }, nil, map[string]string{
			"read a secret": ok, "write elsewhere": ok, "raw socket": ok, "privileged port": ok, "become another user": ok,
			"change the host name": ok, "run the program": ok,
		}},
		{"plain", func(p *plan) { p.Files.Run = []string{filepath.Dir(p.Program)} }, []string{}, map[string]string{
			"read what is permitted": ok, "read a secret": denied, "read a link to a secret": denied,
			"write where it may": ok, "write where it may read": denied, "write elsewhere": denied, "raw socket": "EPERM",
			"become another user": "EPERM", "change the host name": "EPERM", "run the program": ok,
		}},
		{"transparent", func(p *plan) { p.Capabilities = []Capability{NetRaw, NetBindService} },
			[]string{"CAP_NET_BIND_SERVICE", "CAP_NET_RAW"}, map[string]string{
				"raw socket": ok, "become another user": "EPERM", "change the host name": "EPERM", "run the program": denied,
			}},
		{"another user", func(p *plan) { p.User = &User{Text: "x", UID: 12345, GID: 12346, Groups: []int{12347}} }, []string{},
			map[string]string{"become root": "EPERM", "raw socket": "EPERM", "read what is permitted": ok, "read a secret": denied}},
		{"another user, transparent", func(p *plan) {
			p.User, p.Capabilities = &User{Text: "x", UID: 12345, GID: 12346}, []Capability{NetRaw}
		}, []string{"CAP_NET_RAW"}, map[string]string{"become root": "EPERM", "raw socket": ok}},
		{"another user without a sandbox", func(p *plan) { p.Mode, p.User = Off, &User{Text: "x", UID: 12345, GID: 12346} }, []string{},
			map[string]string{"become root": "EPERM", "raw socket": "EPERM", "read a secret": ok}},
		{"strict", func(p *plan) { p.Mode = Strict }, []string{}, map[string]string{"read a secret": denied, "raw socket": "EPERM"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := scene(t)
			p.Files = Files{Read: []string{p.Readable}, Write: []string{p.Writable}, Devices: []string{os.DevNull}}
			row.adjust(&p)
			r := run(t, p)
			confined := p.Mode != Off
			landlocked := hasLandlock(t)
			if confined && !landlocked {
				wantMissing(t, p, r)
			} else if r.Error != "" || len(r.Missing) > 0 {
				t.Fatalf("error %q, missing %q", r.Error, r.Missing)
			}
			for what, want := range row.want {
				if want == denied && !landlocked {
					continue
				}
				if got, tried := r.Did[what]; got != want || !tried {
					t.Errorf("%s: %q, want %q", what, got, want)
				}
			}
			if row.caps != nil && !slices.Equal(r.Capabilities, row.caps) {
				t.Errorf("capabilities %q, want %q", r.Capabilities, row.caps)
			}
			if r.NoNewPrivileges != confined || confined && r.Dumpable || r.Landlock > 0 != (confined && landlocked) {
				t.Errorf("%+v", r.Report)
			}
			if p.User != nil && (r.UID != p.User.UID || r.GID != p.User.GID) {
				t.Errorf("user %d, group %d", r.UID, r.GID)
			}
		})
	}
}

// hasLandlock reports whether this kernel has it. It may lack it before Linux 5.13 alone.
func hasLandlock(t *testing.T) bool {
	t.Helper()
	version, err := ll.LandlockGetABIVersion()
	if has := err == nil && version > 0; has || !atLeast(t, 5, 13) {
		return has
	}
	t.Fatalf("no Landlock: %v", err)
	return false
}

// wantMissing checks what is said of a kernel without Landlock: strict fails, auto goes on
// with all other restrictions.
func wantMissing(t *testing.T, p plan, r result) {
	t.Helper()
	if len(r.Missing) != 1 || !strings.HasPrefix(r.Missing[0], "Landlock: this kernel does not offer it") {
		t.Errorf("missing %q, want Landlock", r.Missing)
	}
	if failed := strings.Contains(r.Error, "Landlock"); failed != (p.Mode == Strict) {
		t.Errorf("error %q", r.Error)
	}
}

func TestFindUser(t *testing.T) {
	for _, row := range []struct {
		text     string
		uid, gid int
		fails    string
	}{
		{"root", 0, 0, ""},
		{"0", 0, 0, ""},
		{"nobody:0", 65534, 0, ""},
		{"nobody:root", 65534, 0, ""},
		{"4242:4343", 4242, 4343, ""},
		{"4242", 0, 0, `no user "4242"`},
		{"no such user", 0, 0, `no user "no such user"`},
		{"root:no such group", 0, 0, `no group "no such group"`},
		{"root:", 0, 0, `no group ""`},
		{":root", 0, 0, `no user ""`},
		{"", 0, 0, `no user ""`},
		{"-1:0", 0, 0, "no user"},
	} {
		u, err := FindUser(row.text)
		switch {
		case row.fails != "":
			if err == nil || !strings.Contains(err.Error(), row.fails) {
				t.Errorf("%q: %v, want %q", row.text, err, row.fails)
			}
		case err != nil || u.UID != row.uid || u.GID != row.gid:
			t.Errorf("%q: %+v, %v", row.text, u, err)
		}
	}
}

// A process that runs as the user already needs no privilege, as after an upgrade.
func TestBecomeWhoItIs(t *testing.T) {
	u := &User{UID: os.Getuid(), GID: os.Getgid()}
	if err := u.become(); err != nil {
		t.Error(err)
	}
}
