package supervise

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is how this process was started, which is how the one that takes
// over from it is.
type Program struct {
	// Path is the file that was started. It is not looked through: where it
	// is replaced, or is a link that leads elsewhere by now, the new file is
	// what takes over.
	Path string
	// Args are the arguments, the name of the program first.
	Args []string
}

// ThisProgram returns how this process was started. It is to be called at the
// start: a relative path is one of the working directory of that moment.
func ThisProgram() (Program, error) {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path, err = os.Executable() // whoever started us made the name up
	}
	if err != nil {
		return Program{}, fmt.Errorf("find the path of this program: %w", err)
	}
	return Program{Path: path, Args: slices.Clone(os.Args)}, nil
}

// Child is a process that is to take over from this one.
type Child struct {
	// PID is its process id.
	PID     int
	process *os.Process
	channel *os.File
	ended   chan struct{}
	state   *os.ProcessState // once ended is closed
}

// The words that go through the channel between the two.
const (
	saysReady = "ready"
	saysError = "error "
)

// Start starts the program again and hands it copies of the sockets. It ends by
// itself, leaving no trace, unless [Child.AwaitReady] and [Child.Commit] follow.
// The sockets stay the caller's.
func (p Program) Start(sockets []Socket) (*Child, error) {
	ours, theirs, err := channel()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	env, err := childEnvironment(os.Environ(), sockets)
	if err != nil {
		ours.Close()
		return nil, err
	}
	// Not os.StartProcess: it takes files, and those of the runtime would
	// make descriptors blocking that the loops share with the child.
	files := []uintptr{0, 1, 2, theirs.Fd()}
	for _, s := range sockets {
		files = append(files, uintptr(s.FD))
	}
	pid, _, err := syscall.StartProcess(p.Path, p.Args, &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	process, err := os.FindProcess(pid) // never fails on unix
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("find process %d: %w", pid, err)
	}
	c := &Child{PID: pid, process: process, channel: ours, ended: make(chan struct{})}
	go c.reap()
	return c, nil
}

// channel returns the two ends of a stream, close-on-exec. Only ours may wait:
// the other one is for a process that does not exist yet.
func channel() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the channel to the new process: %w", os.NewSyscallError("socketpair", err))
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "parent"), nil
}

// childEnvironment is environ without what speaks of this process, and with
// what the child is handed. Its watchdog is its own affair: without WATCHDOG_PID
// the interval is for whoever has it.
func childEnvironment(environ []string, sockets []Socket) ([]string, error) {
	all := make([]handed, len(sockets))
	for i, s := range sockets {
		all[i] = handed{Name: s.Name, Held: s.Held}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("name the sockets for the new process: %w", err)
	}
	env := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{listenPID, listenFDs, listenNames, listenPIDFD, "WATCHDOG_PID", upgradeMark}, name)
	})
	return append(env, upgradeMark+"="+string(text)), nil
}

// reap waits for the process, so that nothing is left of it.
func (c *Child) reap() {
	c.state, _ = c.process.Wait() // without a state it ended all the same
	close(c.ended)
}

// AwaitReady waits until the child says that it serves. The error says why it
// does not: what it said itself, how it ended, or that it took longer than
// patience; then it is gone.
func (c *Child) AwaitReady(patience time.Duration) error {
	err := c.hear(patience)
	if err == nil {
		return nil
	}
	c.Kill()
	<-c.ended
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the new process ended before it was ready: %v", c.state)
	}
	return err
}

// hear reads the one line that the child has to say. [io.EOF] is an end
// without a word.
func (c *Child) hear(patience time.Duration) error {
	if err := c.channel.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("wait for the new process: %w", err)
	}
	const most = 4096
	line, err := bufio.NewReader(io.LimitReader(c.channel, most)).ReadString('\n')
	line = strings.TrimSuffix(line, "\n")
	text, failed := strings.CutPrefix(line, saysError)
	switch {
	case line == saysReady:
		return nil
	case failed:
		return errors.New(text)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the new process was not ready after %v", patience)
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("wait for the new process: %w", err)
	case line == "":
		return io.EOF
	}
	return fmt.Errorf("the new process said %.100q, and not that it is ready", line)
}

// Commit leaves all to the child, which is ready.
func (c *Child) Commit() { c.channel.Close() }

// Kill ends the child, which is not wanted any more. It may be called while
// AwaitReady waits.
func (c *Child) Kill() {
	c.process.Kill() // it may have ended by itself
	c.channel.Close()
}

// Parent is the process that this one takes over from. The methods of nil do
// nothing: there is none.
type Parent struct{ channel *os.File }

// Ready tells the parent that this process serves, and waits until it leaves
// everything to it, or is gone.
func (p *Parent) Ready() error {
	if p == nil {
		return nil
	}
	defer p.channel.Close()
	if _, err := p.channel.WriteString(saysReady + "\n"); err != nil {
		return nil // it is gone, so all is ours
	}
	if _, err := io.Copy(io.Discard, p.channel); err != nil && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("wait for the process before: %w", err)
	}
	return nil
}

// Failed tells the parent why this process does not come to serve.
func (p *Parent) Failed(reason error) {
	if p == nil {
		return
	}
	text := strings.Join(strings.Fields(reason.Error()), " ")
	p.channel.WriteString(saysError + text + "\n") // a parent that is gone need not know
	p.channel.Close()
}
