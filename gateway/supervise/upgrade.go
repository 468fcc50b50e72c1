package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is the command line of this process, and of the one that takes over.
type Program struct {
	// Path is the path of the executable. Symbolic links in it are not resolved: if
	// the file or a link is replaced, an upgrade starts the new file.
	Path string
	// Args are the arguments, beginning with the name of the program.
	Args []string
}

// ThisProgram returns the command line of this process. Call it before the working
// directory changes.
func ThisProgram() (Program, error) {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path, err = os.Executable() // argv[0] is not a file
	}
	if err != nil {
		return Program{}, fmt.Errorf("find the path of this program: %w", err)
	}
	return Program{Path: path, Args: slices.Clone(os.Args)}, nil
}

// Child is a process that was started to take over from this one. Until it does, it
// and its own children are a process group, which is killed as a whole, because a
// process that survives would keep the listening sockets open.
type Child struct {
	// PID is the process id.
	PID     int
	process *os.Process
	channel *os.File
	ended   chan struct{}
	state   *os.ProcessState // set when ended is closed

	mu    sync.Mutex
	group bool // the process group exists and may be killed
}

// The first message of the child on the channel. The others are in transfer.go.
const (
	saysReady = "ready"
	saysError = "error "
	mostSaid  = 4096 // bytes
)

// Start starts the program again and passes it copies of the sockets. The child and
// its children end by themselves unless [Child.AwaitReady] and [Child.Commit] follow.
// The caller keeps ownership of the sockets.
func (p Program) Start(sockets []Socket) (*Child, error) {
	ours, theirs, err := channel()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	c, err := p.start(theirs, sockets)
	if err != nil {
		ours.Close()
		return nil, err
	}
	c.channel = ours
	go c.reap()
	return c, nil
}

// start starts the program with its end of the channel.
func (p Program) start(channel *os.File, sockets []Socket) (*Child, error) {
	list, err := newSocketList(sockets)
	if err != nil {
		return nil, err
	}
	defer list.close()
	// os.StartProcess requires an os.File, whose Fd method would make the sockets
	// blocking, also for the event loops: both processes share the open file.
	files := []uintptr{0, 1, 2, channel.Fd()}
	for _, s := range sockets {
		files = append(files, uintptr(s.FD))
	}
	if list.file != nil {
		files = append(files, list.file.Fd())
	}
	pid, _, err := syscall.StartProcess(p.Path, p.Args, &syscall.ProcAttr{
		Env: childEnvironment(os.Environ(), list.variable), Files: files, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	process, err := os.FindProcess(pid) // never fails on Linux
	if err != nil {
		return nil, fmt.Errorf("find process %d: %w", pid, err)
	}
	return &Child{PID: pid, process: process, ended: make(chan struct{}), group: true}, nil
}

// channel returns a close-on-exec pair of sockets that preserve message boundaries.
// ours is non-blocking; theirs is blocking, because the child uses blocking reads.
func channel() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create a channel to the new process: %w", os.NewSyscallError("socketpair", err))
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "parent"), nil
}

// childEnvironment returns environ for the child: without the variables that concern
// this process only, and with list as the value of the variable that names the
// sockets. It drops WATCHDOG_PID, so that the watchdog's interval applies to the child.
func childEnvironment(environ []string, list string) []string {
	own := []string{listenPID, listenFDs, listenNames, listenPIDFD, "WATCHDOG_PID", upgradeMark}
	env := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(own, name)
	})
	return append(env, upgradeMark+"="+list)
}

// reap waits until the process has ended, kills its children, and stores its state.
func (c *Child) reap() {
	// While the process is a zombie, the id of its group is not reused.
	for unix.Waitid(unix.P_PID, c.PID, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	c.killGroup()
	c.state, _ = c.process.Wait() // on an error there is no state, but the process has ended
	close(c.ended)
}

// killGroup kills the process group, once. After Commit it does nothing.
func (c *Child) killGroup() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.group {
		unix.Kill(-c.PID, unix.SIGKILL) // fails if all of it has ended
		c.group = false
	}
}

// AwaitReady waits until the child reports that it serves. The error is the child's
// own, how it ended, or that it took longer than patience. After an error the child
// has ended.
func (c *Child) AwaitReady(patience time.Duration) error {
	if err := c.hear(patience); err != nil {
		return c.end(err, "before it was ready")
	}
	return nil
}

// end kills the child after an error. If the child had ended by itself, which caused
// the error, the result says that instead.
func (c *Child) end(err error, when string) error {
	c.End()
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("the new process ended %s: %v", when, c.state)
	}
	return err
}

// End calls Kill and waits until the child has ended.
func (c *Child) End() {
	c.Kill()
	<-c.ended
}

// hear reads the child's first message, a line. The error is [io.EOF] if the child
// ended without one.
func (c *Child) hear(patience time.Duration) error {
	if err := c.channel.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("wait for the new process: %w", err)
	}
	said := make([]byte, mostSaid)
	n, err := c.channel.Read(said)
	line := strings.TrimSuffix(string(said[:n]), "\n")
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
	return fmt.Errorf("unexpected message from the new process: %.100q", line)
}

// Commit leaves the service to the child. Call it after AwaitReady has succeeded.
func (c *Child) Commit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.group = false
	c.channel.Close()
}

// Kill kills the child and its process group. It may be called during AwaitReady.
func (c *Child) Kill() {
	c.killGroup()
	c.process.Kill() // it may have left the group, or have ended
	c.channel.Close()
}

// Parent is the process that this one takes over from. A nil Parent does nothing.
type Parent struct {
	channel *os.File
	group   int // its process group; 0 is unknown
}

// Ready tells the parent that this process serves, and waits until the parent leaves
// the service to it or has ended. Meanwhile take answers the messages of
// [Child.Exchange]. It owns the descriptors; it gets fewer than were sent if this
// process is out of descriptors. Then the process joins the parent's process group,
// where a shell or a supervisor looks for it.
func (p *Parent) Ready(take func(message []byte, fds []int) (answer []byte)) error {
	if p == nil {
		return nil
	}
	defer p.channel.Close()
	defer p.joinGroup()
	if _, err := p.channel.WriteString(saysReady + "\n"); err != nil {
		return nil // the parent has exited
	}
	if err := p.answer(take); err != nil && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("wait for the previous process: %w", err)
	}
	return nil
}

// joinGroup joins the parent's process group. It fails, which is harmless, if the
// group has no member left.
func (p *Parent) joinGroup() {
	if p.group > 0 {
		unix.Setpgid(0, p.group)
	}
}

// Failed tells the parent why this process cannot take over.
func (p *Parent) Failed(reason error) {
	if p == nil {
		return
	}
	text := strings.Join(strings.Fields(reason.Error()), " ")
	said := saysError + text
	p.channel.WriteString(said[:min(len(said), mostSaid-1)] + "\n") // fails if the parent has exited
	p.channel.Close()
}
