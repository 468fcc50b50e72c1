package lab

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/race"
)

// Command says how to start a process.
type Command struct {
	// Name of the program: a path, or looked for in PATH and then in the
	// directories of the system's servers.
	Name string
	Args []string
	// Env is added to the environment of the test.
	Env []string
	// Dir is the working directory; "" is the test's.
	Dir string
	// Stdin is what the process reads; nil is nothing.
	Stdin io.Reader
	// Files are descriptors 3 and up of the process.
	Files []*os.File
	// Limit bounds the process to Capabilities (the bounding set): being
	// root it has those and no others.
	Limit        bool
	Capabilities []uintptr
	// WithoutIPv6 shows the process a kernel that has no AF_INET6, as with the
	// boot parameter ipv6.disable=1.
	WithoutIPv6 bool
	// User puts the process in a user namespace below this one, where it is
	// that user. It has no power over the network namespace, and does not
	// think that it is root. Where there may be none the test is skipped.
	// nil leaves the user as it is.
	User *user.User
}

// Process is a process that ends with the test that started it. Its methods
// may be called from several goroutines.
type Process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and lines is complete

	mu      sync.Mutex
	changed *sync.Cond // lines grew, or done was closed
	lines   []string
}

// Start starts a process. At the end of the test it is asked to terminate, and
// killed if it does not; if the test failed, what it printed is logged.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	p := &Process{name: filepath.Base(c.Name), done: make(chan struct{})}
	p.changed = sync.NewCond(&p.mu)
	p.cmd = exec.Command(lookPath(t, c.Name), c.Args...)
	p.cmd.Env = append(append(environment(), race.NoPause()), c.Env...)
	p.cmd.Dir = c.Dir
	p.cmd.Stdin = c.Stdin
	p.cmd.ExtraFiles = c.Files
	p.cmd.SysProcAttr = attributes(t, c)
	output, err := p.outputPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go p.live(c, output, started)
	if err := <-started; err != nil {
		if c.User != nil && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EPERM)) {
			t.Skipf("no user namespace in which %s can be %s: %v", p.name, c.User.Username, err)
		}
		t.Fatalf("start %s: %v", p.name, err)
	}
	t.Cleanup(func() { p.end(t) })
	return p
}

// Run runs a process to its end and returns what it printed, on either stream,
// and its exit code.
func Run(t testing.TB, c Command) (output string, code int) {
	t.Helper()
	p := Start(t, c)
	code = p.Wait(t)
	return strings.Join(p.Lines(), "\n"), code
}

// Require skips the test if one of the programs is not installed.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if find(name) == "" {
			t.Skipf("%s is not installed", name)
		}
	}
}

func lookPath(t testing.TB, name string) string {
	t.Helper()
	path := find(name)
	if path == "" {
		t.Fatalf("%s is not installed", name)
	}
	return path
}

// find looks for servers where the PATH of an ordinary user does not lead.
func find(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	for _, dir := range []string{"", "/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// environment is that of the test, without what the gateway would take for a
// setting.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, binaryVariable+"=")
	})
}

func attributes(t testing.TB, c Command) *syscall.SysProcAttr {
	t.Helper()
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.User == nil {
		return a
	}
	uid, err := strconv.Atoi(c.User.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(c.User.Gid)
	if err != nil {
		t.Fatal(err)
	}
	a.Cloneflags = syscall.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Geteuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: os.Getegid(), Size: 1}}
	return a
}

func (p *Process) outputPipe() (io.Reader, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	return r, nil
}

// live starts the process and stays until it has ended. The thread is given up
// with it: a bounding set cannot be widened again, nor a filter taken off, and
// the parent-death signal would be sent if the thread ended earlier.
func (p *Process) live(c Command, output io.Reader, started chan<- error) {
	runtime.LockOSThread()
	if c.WithoutIPv6 {
		if err := forgetIPv6(); err != nil {
			started <- err
			return
		}
	}
	if c.Limit {
		if err := dropOthers(c.Capabilities); err != nil {
			started <- err
			return
		}
	}
	err := p.cmd.Start()
	p.cmd.Stdout.(*os.File).Close()
	started <- err
	if err != nil {
		return
	}
	p.read(output)
	p.cmd.Wait() // the state is looked at where it matters
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.done)
	p.changed.Broadcast()
}

// dropOthers takes all but the capabilities in keep out of the thread's
// bounding set.
func dropOthers(keep []uintptr) error {
	kept := make(map[uintptr]bool, len(keep))
	for _, c := range keep {
		kept[c] = true
	}
	for c := uintptr(0); ; c++ {
		if kept[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL {
			return nil // beyond the last one that the kernel knows
		}
		if err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
}

func (p *Process) read(output io.Reader) {
	r := bufio.NewReader(output)
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			p.mu.Lock()
			p.lines = append(p.lines, strings.TrimSuffix(line, "\n"))
			p.changed.Broadcast()
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// end is the clean-up.
func (p *Process) end(t testing.TB) {
	p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	defer kill.Stop()
	select {
	case <-p.done:
	case <-time.After(time.Until(await.Deadline(t))):
		// A child of the process keeps the pipe open.
		t.Errorf("%s does not end", p.name)
	}
	for _, line := range p.Lines() {
		if line == "WARNING: DATA RACE" || strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			t.Errorf("%s: %s", p.name, line)
		}
	}
	if t.Failed() && len(p.Lines()) > 0 {
		t.Logf("%s printed:\n%s", p.name, strings.Join(p.Lines(), "\n"))
	}
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends s to the process.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Lines returns what the process has printed so far, without line ends.
func (p *Process) Lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lines[:len(p.lines):len(p.lines)]
}

// Wait waits until the process has ended by itself and returns its exit code,
// -1 if it died of a signal.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	await.Receive(t, "the end of "+p.name, p.done)
	return p.cmd.ProcessState.ExitCode()
}

// WaitLine waits for a line that contains text and returns the first one.
func (p *Process) WaitLine(t testing.TB, text string) string {
	t.Helper()
	line, ok := p.find(t, func(line string) bool { return strings.Contains(line, text) })
	if !ok {
		t.Fatalf("%s printed no line with %q", p.name, text)
	}
	return line
}

// find waits for the first line that matches; false if the process ended, or
// the time to wait, before there was one.
func (p *Process) find(t testing.TB, match func(line string) bool) (string, bool) {
	var late bool
	timer := time.AfterFunc(time.Until(await.Deadline(t)), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.changed.Broadcast()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; ; {
		for ; i < len(p.lines); i++ {
			if match(p.lines[i]) {
				return p.lines[i], true
			}
		}
		if late || p.ended() {
			return "", false
		}
		p.changed.Wait()
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
