package supervise

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
)

// childVariable makes the test binary act as the process that takes over.
const childVariable = "SUPERVISE_TEST_CHILD"

func TestMain(m *testing.M) {
	if part := os.Getenv(childVariable); part != "" {
		if err := playChild(part); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// playChild acts as the new process. part is the way in which it succeeds or fails.
func playChild(part string) error {
	switch part {
	case "exits":
		return errors.New("no")
	case "hangs":
		hang()
	case "hangs with a child", "exits with a child", "killed with a child":
		cmd := exec.Command("sleep", "300")
		cmd.ExtraFiles = []*os.File{os.NewFile(childFirst, "socket")}
		if err := cmd.Start(); err != nil {
			return err
		}
		if part == "exits with a child" {
			return errors.New("no")
		}
		hang()
	case "sends nonsense":
		_, err := os.NewFile(parentFD, "parent").WriteString("\x00\x01nonsense\n")
		return err
	}
	in, err := Inherit()
	if err != nil {
		return err
	}
	if part == "fails" {
		in.Parent.Failed(errors.New("port 80\nis taken"))
		return nil
	}
	if os.Getenv("LISTEN_FDS")+os.Getenv(upgradeMark)+os.Getenv("WATCHDOG_PID") != "" {
		return errors.New("the environment still describes sockets")
	}
	if part != "serves" {
		return playAnswers(in.Parent, part)
	}
	if err := in.Parent.Ready(nil); err != nil {
		return err
	}
	return answerOnce(in.Sockets)
}

// hang keeps a child from ending until the parent ends it. An empty select would be a
// deadlock to the runtime, which ends the program unless it is built with cgo.
func hang() { time.Sleep(time.Hour) }

// playAnswers answers each message with its description, and writes a byte to each
// descriptor.
func playAnswers(parent *Parent, part string) error {
	if part == "answers at its limit" {
		limit := unix.Rlimit{Cur: 40, Max: 40}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
	}
	return parent.Ready(func(message []byte, fds []int) []byte {
		switch part {
		case "ends before its answer":
			os.Exit(1)
		case "hangs before its answer":
			hang()
		}
		for _, fd := range fds {
			unix.Write(fd, []byte("x"))
			unix.Close(fd)
		}
		return fmt.Appendf(nil, "%d bytes, %d descriptors", len(message), len(fds))
	})
}

// answerOnce accepts one connection and sends it the list of inherited sockets.
func answerOnce(sockets []Socket) error {
	ln, err := net.FileListener(os.NewFile(uintptr(sockets[0].FD), "listener"))
	if err != nil {
		return err
	}
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	for _, s := range sockets {
		fmt.Fprintf(c, "%s %v %v\n", s.Name, s.Held, s.Addr)
	}
	return c.Close()
}

// program returns the test binary, acting as part.
func program(t *testing.T, part string) Program {
	t.Helper()
	t.Setenv(childVariable, part)
	t.Setenv("LISTEN_FDS", "7")
	t.Setenv("WATCHDOG_PID", "1")
	p, err := ThisProgram()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// listener returns a listening socket as the engine hands it over.
func listener(t *testing.T, name string) Socket {
	t.Helper()
	const kind = unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd := listening(t, open(t, unix.AF_INET, kind, 0), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	s := Socket{FD: fd, Name: name, Held: name == "systemd:web"}
	if err := s.inspect(); err != nil {
		t.Fatal(err)
	}
	return s
}

// The child serves connections that were in the queues of the sockets before it
// started.
func TestUpgrade(t *testing.T) {
	first, second := listener(t, "127.0.0.1:0"), listener(t, "systemd:web")
	waiting, err := net.Dial("tcp", first.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	waiting.SetDeadline(await.Deadline(t))
	child, err := program(t, "serves").Start([]Socket{first, second})
	if err != nil {
		t.Fatal(err)
	}
	if err := child.AwaitReady(await.Patience); err != nil {
		t.Fatal(err)
	}
	select {
	case <-child.ended:
		t.Error("the child does not wait for the parent")
	default:
	}
	child.Commit()
	got, err := io.ReadAll(waiting)
	want := fmt.Sprintf("127.0.0.1:0 false %v\nsystemd:web true %v\n", first.Addr, second.Addr)
	if err != nil || string(got) != want {
		t.Errorf("the child says %q, %v; want %q", got, err, want)
	}
	<-child.ended
	if !child.state.Success() {
		t.Errorf("the child ended with %v", child.state)
	}
	if flags, err := unix.FcntlInt(uintptr(first.FD), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("the parent's socket has become blocking: %#x, %v", flags, err)
	}
}

// A child that does not become ready is killed, and the error has the reason.
func TestUpgradeFails(t *testing.T) {
	rows := []struct {
		part     string
		patience time.Duration
		want     string
	}{
		{"exits", await.Patience, "ended before it was ready: exit status 1"},
		{"fails", await.Patience, "port 80 is taken"},
		{"sends nonsense", await.Patience, `unexpected message from the new process: "\x00\x01nonsense"`},
		{"hangs", 200 * time.Millisecond, "was not ready after 200ms"},
	}
	for _, row := range rows {
		t.Run(row.part, func(t *testing.T) {
			child, err := program(t, row.part).Start(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := child.AwaitReady(row.patience); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("the error is %v, want %q", err, row.want)
			}
			if err := unix.Kill(child.PID, 0); !errors.Is(err, unix.ESRCH) {
				t.Errorf("process %d is left: %v", child.PID, err)
			}
		})
	}
}

// Kill may be called during AwaitReady.
func TestKillDuringAwaitReady(t *testing.T) {
	child, err := program(t, "hangs").Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() { waited <- child.AwaitReady(await.Patience) }()
	child.Kill()
	if err := <-waited; err == nil {
		t.Error("a killed child is ready")
	}
}

func TestUpgradeWithoutProgram(t *testing.T) {
	p := Program{Path: filepath.Join(t.TempDir(), "missing"), Args: []string{"missing"}}
	if _, err := p.Start(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing program: %v", err)
	}
}

// A symbolic link is resolved when the child is started, not before.
func TestThisProgramKeepsLinks(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	before := os.Args
	t.Cleanup(func() { os.Args = before })
	for _, name := range []string{"./current", filepath.Join(dir, "current")} {
		os.Args = []string{name, "--flag"}
		p, err := ThisProgram()
		if err != nil || p.Path != filepath.Join(dir, "current") || len(p.Args) != 2 || p.Args[0] != name {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	os.Args = []string{"made-up-name"}
	if p, err := ThisProgram(); err != nil || p.Path != self {
		t.Errorf("an arbitrary argv[0]: %+v, %v; want %s", p, err, self)
	}
}

// Without a parent both methods do nothing.
func TestNoParent(t *testing.T) {
	var p *Parent
	p.Failed(errors.New("alone"))
	if err := p.Ready(nil); err != nil {
		t.Error(err)
	}
}

// Short lists of sockets are passed in the environment, long ones in a file
// (MAX_ARG_STRLEN, execve(2)). All names arrive in both cases.
func TestSocketList(t *testing.T) {
	for _, n := range []int{0, 1, 1000, 15_000} {
		sockets := make([]Socket, n)
		for i := range sockets {
			sockets[i] = Socket{FD: 100, Name: fmt.Sprintf("127.0.0.1:%d", i), Held: i%2 == 0}
		}
		list, err := newSocketList(sockets)
		if err != nil {
			t.Fatal(err)
		}
		if len(list.variable) > 128<<10-len(upgradeMark)-2 {
			t.Errorf("%d sockets: the variable has %d bytes", n, len(list.variable))
		}
		value := list.variable
		if list.file != nil {
			if want := fmt.Sprintf("fd:%d", childFirst+n); value != want {
				t.Errorf("%d sockets: the variable is %q, want %q", n, value, want)
			}
			fd, err := unix.Dup(int(list.file.Fd())) // the child's descriptor
			if err != nil {
				t.Fatal(err)
			}
			value = fmt.Sprintf("fd:%d", fd)
		}
		list.close()
		got, err := readSocketList(value)
		if err != nil || len(got) != n {
			t.Fatalf("%d sockets: got %d, %v", n, len(got), err)
		}
		for i, s := range got {
			if want := (Socket{FD: childFirst + i, Name: sockets[i].Name, Held: sockets[i].Held}); s != want {
				t.Fatalf("socket %d of %d: %+v, want %+v", i, n, s, want)
			}
		}
	}
	for _, value := range []string{"fd:", "fd:1", "fd:x", "fd:1048576", "["} {
		if _, err := readSocketList(value); err == nil {
			t.Errorf("%q: no error", value)
		}
	}
}

// The descendants of a child are killed with it, whether it hangs, exits or is killed,
// so that they hold no socket. The end of a pipe represents the socket.
func TestUpgradeEndsTheGroup(t *testing.T) {
	for _, part := range []string{"hangs with a child", "exits with a child", "killed with a child"} {
		t.Run(part, func(t *testing.T) {
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			held := os.NewFile(uintptr(pipe[0]), "held")
			defer held.Close()
			child, err := program(t, part).Start([]Socket{{FD: pipe[1], Name: "pipe"}})
			unix.Close(pipe[1])
			if err != nil {
				t.Fatal(err)
			}
			if part == "killed with a child" {
				child.Kill()
			} else if err := child.AwaitReady(300 * time.Millisecond); err == nil {
				t.Error("no error for a child that is not ready")
			}
			<-child.ended
			if _, err := io.ReadAll(held); err != nil { // returns when all writers have closed the pipe
				t.Error(err)
			}
		})
	}
}

// Messages with the maximum number of descriptors, and of bytes, reach the child and
// are answered. The child gets copies of the same open files.
func TestExchange(t *testing.T) {
	child, err := program(t, "answers").Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer child.End()
	if err := child.AwaitReady(await.Patience); err != nil {
		t.Fatal(err)
	}
	pipe, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	for _, row := range []struct{ bytes, fds int }{{1, 0}, {2, 1}, {mostMessage, mostPassed}, {100, 252}, {mostMessage - 1, 0}} {
		fds := slices.Repeat([]int{int(write.Fd())}, row.fds)
		answer, err := child.Exchange(make([]byte, row.bytes), fds, await.Deadline(t))
		if want := fmt.Sprintf("%d bytes, %d descriptors", row.bytes, row.fds); err != nil || string(answer) != want {
			t.Errorf("the answer is %q, %v; want %q", answer, err, want)
		}
	}
	write.Close()
	if got, err := io.ReadAll(pipe); err != nil || len(got) != 1+mostPassed+252 {
		t.Errorf("%d bytes came through the descriptors, %v", len(got), err)
	}
}

// A child at its limit of descriptors gets only some of them.
func TestExchangeBeyondTheLimit(t *testing.T) {
	child, err := program(t, "answers at its limit").Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer child.End()
	if err := child.AwaitReady(await.Patience); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	answer, err := child.Exchange([]byte("x"), slices.Repeat([]int{int(null.Fd())}, mostPassed), await.Deadline(t))
	var n int
	if _, bad := fmt.Sscanf(string(answer), "1 bytes, %d descriptors", &n); err != nil || bad != nil || n < 1 || n >= mostPassed {
		t.Errorf("the answer is %q, %v", answer, err)
	}
}

// A child that exits or hangs instead of answering is killed.
func TestExchangeFails(t *testing.T) {
	for _, row := range []struct {
		part     string
		patience time.Duration
		want     string
	}{
		{"ends before its answer", await.Patience, "the new process ended meanwhile: exit status 1"},
		{"hangs before its answer", 200 * time.Millisecond, "did not answer in time"},
	} {
		t.Run(row.part, func(t *testing.T) {
			child, err := program(t, row.part).Start(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := child.AwaitReady(await.Patience); err != nil {
				t.Fatal(err)
			}
			_, err = child.Exchange([]byte("x"), nil, time.Now().Add(row.patience))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("the error is %v, want %q", err, row.want)
			}
			if err := unix.Kill(child.PID, 0); !errors.Is(err, unix.ESRCH) {
				t.Errorf("process %d is left: %v", child.PID, err)
			}
		})
	}
}
