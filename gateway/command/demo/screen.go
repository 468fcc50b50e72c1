package demo

import (
	"fmt"
	"io"
	"os"
	"strings"

	"unproxy/gateway/accesslog"
	"unproxy/gateway/command/usage"
)

// screen prints the results of the demo.
type screen struct {
	w      io.Writer
	colour bool
}

// newScreen returns the screen on w, with colours if w is a terminal.
func newScreen(w io.Writer) *screen {
	plain := os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	return &screen{w: w, colour: !plain && accesslog.IsTerminal(w)}
}

func (s *screen) print(format string, args ...any) { fmt.Fprintf(s.w, format, args...) }

// paint returns text in a colour of the terminal, "32" for green.
func (s *screen) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// The widths of the columns. With the marks and gaps a row has 98 characters.
var columns = [...]int{37, 27, 26}

// heading begins a table.
func (s *screen) heading() {
	s.row("  ", "sent by the load balancer", "seen by the backend", "logged by the gateway")
	rule := func(i int) string { return strings.Repeat("-", columns[i]) }
	s.row("  ", rule(0), rule(1), rule(2))
}

// row writes a row and wraps its cells.
func (s *screen) row(mark string, cells ...string) {
	var wrapped [len(columns)][]string
	height := 1
	for i, c := range cells {
		wrapped[i] = usage.Wrap(c, columns[i])
		height = max(height, len(wrapped[i]))
	}
	for n := range height {
		line := ""
		for i := range wrapped {
			text := ""
			if n < len(wrapped[i]) {
				text = wrapped[i][n]
			}
			line += fmt.Sprintf("  %-*s", columns[i], text)
		}
		s.print("%s%s\n", mark, strings.TrimRight(line, " "))
		mark = "  "
	}
}

// result writes the row of a scene and, below it, each difference from what was
// expected.
func (s *screen) result(cells [len(columns)]string, differences []string) {
	mark := s.paint("32", "ok")
	if len(differences) > 0 {
		mark = s.paint("31", "NO")
	}
	s.row(mark, cells[:]...)
	for _, d := range differences {
		s.print("      %s\n", s.paint("31", d))
	}
}
