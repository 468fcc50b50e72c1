package command

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"

	"unproxy/gateway/config/value"
)

// The size that is assumed if the terminal does not report one, that of a VT100.
const (
	defaultWidth  = 80
	defaultHeight = 24
)

// headerLines is the number of fixed lines at the top of the screen.
const headerLines = 2

// Control sequences of ECMA-48 and xterm. The alternate screen preserves the previous
// content of the terminal.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // alternate screen, hide the cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	cursorHome  = "\x1b[H"
	clearLine   = "\x1b[K" // to the end of the line
	clearBelow  = "\x1b[J"
)

// screen shows texts on a terminal. Each replaces the previous one and is cut to the
// size of the terminal.
type screen struct {
	out    io.Writer
	in     *os.File // for keys and for the size; nil if keys are not read
	colour bool

	last    string
	resized chan os.Signal
	restore func()
}

// openScreen takes over the terminal. The caller must call close. Keys are read
// without waiting for a line: q and Ctrl-C call quit.
func openScreen(out io.Writer, in *os.File, quit context.CancelFunc) *screen {
	s := &screen{out: out, colour: os.Getenv("NO_COLOR") == "", resized: make(chan os.Signal, 1), restore: func() {}}
	signal.Notify(s.resized, syscall.SIGWINCH)
	if in != nil && term.IsTerminal(int(in.Fd())) {
		s.in = in
		if before, err := term.MakeRaw(int(in.Fd())); err == nil {
			s.restore = func() { term.Restore(int(in.Fd()), before) }
			go readKeys(in, quit)
		}
	}
	io.WriteString(out, enterScreen)
	return s
}

// close restores the terminal.
func (s *screen) close() {
	signal.Stop(s.resized)
	io.WriteString(s.out, leaveScreen)
	s.restore()
}

// readKeys calls quit at the first q or Ctrl-C. In raw mode the terminal sends no
// signal for Ctrl-C (ISIG in termios(3)). Its goroutine may remain until the process
// exits, because a read from a terminal cannot be interrupted.
func readKeys(in io.Reader, quit context.CancelFunc) {
	const ctrlC, ctrlD = 3, 4
	key := make([]byte, 1)
	for {
		if _, err := in.Read(key); err != nil {
			return
		}
		switch key[0] {
		case 'q', 'Q', ctrlC, ctrlD:
			quit()
			return
		}
	}
}

// show shows a text.
func (s *screen) show(text string) error {
	s.last = text
	return s.redraw()
}

// redraw shows the last text in the current size of the terminal. It clears each line
// to its end; clearing the whole screen first would flicker.
func (s *screen) redraw() error {
	width, height := terminalSize(s.out, s.in)
	var b strings.Builder
	b.WriteString(cursorHome)
	for i, line := range fit(s.last, width, height) {
		if i > 0 {
			b.WriteString("\r\n") // raw mode does not add the carriage return
		}
		if s.colour {
			line = paint(i, line)
		}
		b.WriteString(line + clearLine)
	}
	b.WriteString(clearBelow)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// terminalSize returns the size of the terminal on out or in.
func terminalSize(out io.Writer, in *os.File) (width, height int) {
	for _, f := range []any{out, in} {
		if f, ok := f.(*os.File); ok && f != nil {
			if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && height > 0 {
				return width, height
			}
		}
	}
	return defaultWidth, defaultHeight
}

// fit returns the lines of a text that fit on a terminal, each cut to its width. If
// lines are left out, the last line has their number.
func fit(text string, width, height int) []string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if height < 1 {
		height = 1
	}
	hidden := len(lines) - (height - 1)
	if len(lines) > height-1 {
		lines = lines[:max(0, height-1)]
	}
	footer := "q quits"
	if hidden > 0 {
		footer = value.Plural(hidden, "more line") + "; q quits"
	}
	if height > len(lines) {
		lines = append(lines, footer)
	}
	for i := range lines {
		lines[i] = cutLine(lines[i], width)
	}
	return lines
}

// cutLine cuts a line to a width in characters. "…" marks what was cut off.
func cutLine(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	if width < 1 {
		return ""
	}
	runes := []rune(line)
	return string(runes[:width-1]) + "…"
}

// paint colours the i-th line of the screen.
func paint(i int, line string) string {
	const bold, red, yellow, green, plain = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
	switch {
	case i == 0 && strings.Contains(line, ", not ready"):
		return bold + red + line + plain
	case i == 0:
		return strings.Replace(line, ", ready", ", "+bold+green+"ready"+plain, 1)
	case i < headerLines:
		return line
	case strings.HasPrefix(line, "  fail  "), strings.HasPrefix(line, "  ! "):
		return red + line + plain
	case strings.HasPrefix(line, "  warn  "):
		return yellow + line + plain
	case line != "" && line[0] != ' ':
		return bold + line + plain
	}
	return line
}
