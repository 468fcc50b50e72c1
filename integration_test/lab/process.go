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
	"unproxy/integration_test/seccomp"
)

// Command says how to start a process.
type Command struct {
	// Name is a path, or a name to look up in PATH and then in the directories of
	// system daemons.
	Name string
	Args []string
	// Env is added to the test's environment.
	Env []string
	// Dir is the working directory, by default the test's.
	Dir string
	// Stdin is the standard input, by default empty.
	Stdin io.Reader
	// Files become descriptors 3 and up.
	Files []*os.File
	// Limit reduces the bounding set to Capabilities. The process is root and has
	// exactly these.
	Limit        bool
	Capabilities []uintptr
	// WithoutIPv6 emulates a kernel without AF_INET6, as with the boot parameter
	// ipv6.disable=1.
	WithoutIPv6 bool
	// User runs the process as that user, in a child user namespace without rights
	// over the network namespace. The test is skipped where such a namespace is not
	// allowed. nil keeps the user.
	User *user.User
	// Container confines the process; Name and Dir are paths in its root.
	Container *Container
}

// Process is a process that ends with the test that started it. Its methods are safe
// for concurrent use.
type Process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and lines is complete

	mu      sync.Mutex
	changed *sync.Cond // lines grew, or done was closed
	lines   []string
}

// Start starts a process. When the test ends, the process gets a SIGTERM, and a
// SIGKILL if it does not end. If the test failed, its output is logged.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	p := &Process{name: filepath.Base(c.Name), done: make(chan struct{})}
	p.changed = sync.NewCond(&p.mu)
	name := c.Name
	if c.Container == nil {
		name = lookPath(t, c.Name)
	}
	p.cmd = exec.Command(name, c.Args...)
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
			t.Skipf("no user namespace to run %s as %s in: %v", p.name, c.User.Username, err)
		}
		t.Fatalf("start %s: %v", p.name, err)
	}
	t.Cleanup(func() { p.end(t) })
	return p
}

// Run runs a process until it exits and returns its output, of both streams, and its
// exit code.
func Run(t testing.TB, c Command) (output string, code int) {
	t.Helper()
	p := Start(t, c)
	code = p.Wait(t)
	return strings.Join(p.Lines(), "\n"), code
}

// Must runs a process that has to succeed and returns its output.
func Must(t testing.TB, c Command) string {
	t.Helper()
	output, code := Run(t, c)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d: %s", c.Name, strings.Join(c.Args, " "), code, output)
	}
	return output
}

// Output runs a program with its arguments. It has to succeed. Output returns what it
// printed.
func Output(t testing.TB, words ...string) string {
	t.Helper()
	return Must(t, Command{Name: words[0], Args: words[1:]})
}

// Shell runs a script, each command of which has to succeed, and returns its output.
func Shell(t testing.TB, script string) string {
	t.Helper()
	return Must(t, shell(script))
}

// shell returns the command that runs a script. Daemons and nft are found also where
// an ordinary user's PATH lacks their directories.
func shell(script string) Command {
	return Command{Name: "sh", Args: []string{"-ec", "PATH=$PATH:/usr/sbin:/sbin\n" + script}}
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

// find returns the path of a program. Directories of daemons are searched as well,
// which the PATH of an ordinary user lacks.
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

// environment returns the test's environment without the variable that the gateway
// would take for a setting.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, binaryVariable+"=")
	})
}

func attributes(t testing.TB, c Command) *syscall.SysProcAttr {
	t.Helper()
	if c.Container != nil {
		return c.Container.attributes()
	}
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

// live starts the process and returns when it has ended. The thread ends with it: a
// bounding set cannot be extended again, a seccomp filter cannot be removed, and the
// kernel would send the parent-death signal if the thread ended earlier.
func (p *Process) live(c Command, output io.Reader, started chan<- error) {
	runtime.LockOSThread()
	if c.WithoutIPv6 {
		ipv6 := seccomp.Argument{Number: 0, Value: unix.AF_INET6}
		err := seccomp.Refusal{Call: unix.SYS_SOCKET, Arguments: []seccomp.Argument{ipv6}, Errno: unix.EAFNOSUPPORT}.Apply()
		if err != nil {
			started <- err
			return
		}
	}
	if c.Container != nil {
		if err := c.Container.confine(); err != nil {
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
	p.cmd.Wait() // users check the state
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.done)
	p.changed.Broadcast()
}

// dropOthers removes all capabilities but those in keep from the thread's bounding
// set.
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
			return nil // beyond the last capability that the kernel knows
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

// end ends the process when the test ends, and reports what went wrong in it.
func (p *Process) end(t testing.TB) {
	p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	defer kill.Stop()
	select {
	case <-p.done:
	case <-time.After(time.Until(await.Deadline(t))):
		t.Errorf("%s did not end, or a child of it keeps its output open", p.name)
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

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Lines returns the lines that the process has printed so far.
func (p *Process) Lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lines[:len(p.lines):len(p.lines)]
}

// Wait waits until the process exits and returns its exit code, -1 if a signal killed
// it.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	await.Receive(t, "the end of "+p.name, p.done)
	return p.cmd.ProcessState.ExitCode()
}

// WaitLine waits for a line that contains text and returns the first such line.
func (p *Process) WaitLine(t testing.TB, text string) string {
	t.Helper()
	line, ok := p.find(t, func(line string) bool { return strings.Contains(line, text) })
	if !ok {
		t.Fatalf("%s did not print a line with %q", p.name, text)
	}
	return line
}

// find waits for the first line that matches. It returns false if the process or the
// time to wait ended before. match sees each line once.
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
