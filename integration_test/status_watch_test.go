package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// terminal is the far side of a pseudo-terminal and what was written to it.
type terminal struct {
	*testing.T
	master, slave *os.File
	mu            sync.Mutex
	written       []byte
}

// openTerminal opens a pseudo-terminal, see pty(7) and pts(4).
func openTerminal(t *testing.T, width, height int) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there is no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	term := &terminal{T: t, master: master, slave: slave}
	term.resize(width, height)
	go term.read()
	return term
}

func (t *terminal) read() {
	b := make([]byte, 64<<10)
	for {
		n, err := t.master.Read(b)
		t.mu.Lock()
		t.written = append(t.written, b[:n]...)
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (t *terminal) resize(width, height int) {
	t.Helper()
	size := &unix.Winsize{Col: uint16(width), Row: uint16(height)}
	if err := unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
}

var (
	colours  = regexp.MustCompile("\x1b\\[[0-9;]*m")
	controls = regexp.MustCompile("\x1b\\[[?0-9;]*[A-Za-z]")
)

// frames returns the screens that were written so far, whole ones, as lines.
func (t *terminal) frames() (all [][]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	whole := string(t.written)
	for {
		_, rest, ok := strings.Cut(whole, "\x1b[H")
		if !ok {
			return all
		}
		frame, after, ok := strings.Cut(rest, "\x1b[J")
		if !ok {
			return all
		}
		frame = controls.ReplaceAllString(colours.ReplaceAllString(frame, ""), "")
		all = append(all, strings.Split(frame, "\r\n"))
		whole = after
	}
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.written)
}

// start runs a program in the terminal, as its session's leader.
func (t *terminal) start(name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.slave, t.slave, t.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd
}

// status --watch fits the terminal, follows its size, ends at q and at Ctrl-C, and leaves
// the terminal as it was.
func TestStatusWatchFitsTheTerminal(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		flags := []string{"--trust", "127.0.0.1", "--admin", "127.0.0.1:9180"}
		for port := 2000; port < 2050; port++ {
			flags = append(flags, "--forward", fmt.Sprintf("127.0.0.1:%d=127.0.0.1:3000", port))
		}
		lab.StartGateway(t, flags...)
		wantRejected(t, "127.0.0.2", "127.0.0.1:2000", lab.V2(client4, dest4))
		for _, quit := range []string{"q", "\x03"} {
			term := openTerminal(t, 80, 24)
			before, err := unix.IoctlGetTermios(int(term.slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			cmd := term.start(lab.Binary(t), "status", "--watch", "--admin", "127.0.0.1:9180")
			await.Until(t, "a screen", func() bool { return len(term.frames()) > 0 })
			term.resize(200, 60)
			await.Until(t, "a screen of 60 lines", func() bool {
				all := term.frames()
				return len(all[len(all)-1]) == 60
			})
			all := term.frames()
			wantScreen(t, all[0], 80, 24)
			wantScreen(t, all[len(all)-1], 200, 60)
			if _, err := term.master.WriteString(quit); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%q ends it with %v", quit, err)
			}
			after, err := unix.IoctlGetTermios(int(term.slave.Fd()), unix.TCGETS)
			if err != nil || *after != *before {
				t.Errorf("%q: the terminal's settings are %+v, %v; they were %+v", quit, after, err, before)
			}
			await.Until(t, "the terminal shows what it showed before", func() bool {
				return strings.HasSuffix(term.text(), "\x1b[?25h\x1b[?1049l")
			})
		}
	})
}

// wantScreen checks that a screen fits a size, begins with the header, and has problems
// before forwards.
func wantScreen(t *testing.T, lines []string, width, height int) {
	t.Helper()
	if len(lines) > height {
		t.Errorf("%d lines on a terminal of %d", len(lines), height)
	}
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n > width {
			t.Errorf("a line of %d characters on a terminal of %d: %q", n, width, line)
		}
	}
	text := strings.Join(lines, "\n")
	refusals, forwards := strings.Index(text, "\nRecent refusals"), strings.Index(text, "\nForwards")
	if !strings.HasPrefix(text, "unproxy ") || refusals < 0 || forwards < refusals || !strings.Contains(lines[len(lines)-1], "q quits") {
		t.Errorf("%d×%d:\n%s", width, height, text)
	}
}
