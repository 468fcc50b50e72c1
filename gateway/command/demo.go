package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"unproxy/gateway/command/usage"
)

const demoHelp = `Shows what unproxy does, with nothing but itself: an old server that knows
nothing of PROXY headers, a gateway before it, and a load balancer that also
misbehaves. Everything runs on loopback and ends by itself within seconds.

Each row is compared with what ought to come out. Exit code 1 if one differs.

The second part, transparent mode, needs a network namespace of its own, which
it makes for itself where the host lets it.`

// insideFlag marks the process that plays the second part of the demo. Its
// value is the network namespace that the process must not be in: the part
// changes routes.
const insideFlag = "inside-namespace"

// demoCommand is "unproxy demo".
func demoCommand() *cli.Command {
	return &cli.Command{
		Name:        "demo",
		Usage:       "watch it work, on this host and by itself",
		Description: demoHelp,
		Flags:       []cli.Flag{&cli.StringFlag{Name: insideFlag, Hidden: true}},
		Action:      runDemo,
	}
}

// runDemo plays both parts, or the second one alone where it is told that it
// has a network namespace of its own.
func runDemo(ctx *cli.Context) error {
	out := newScreen(ctx.App.Writer)
	if outside := ctx.String(insideFlag); outside != "" {
		return playInside(out, outside)
	}
	first := playHeaders(out)
	second := enterNamespace(ctx)
	var missing *unavailable
	if errors.As(second, &missing) {
		missing.print(out)
		second = nil
	}
	if err := errors.Join(first, second); err != nil {
		return err
	}
	out.print(`
How to go on
  unproxy --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8
                            in front of your own server; --trust is your load balancer
  unproxy check ...         what flags would do, before they do it
  unproxy probe --help      be a load balancer yourself, against a running gateway
  unproxy trust presets     the ranges of well-known load balancers
  unproxy --help            every flag
`)
	return nil
}

// unavailable says why this host does not let a part of the demo be shown, and
// what to do about it.
type unavailable struct {
	why  error
	then string
}

// Error returns why.
func (u *unavailable) Error() string { return u.why.Error() }

// print says so.
func (u *unavailable) print(out *screen) {
	out.print("\n2. Transparent mode cannot be shown here\n\n")
	out.print("  why   %s\n", usage.OneLine(u.why.Error()))
	out.print("  then  %s\n", u.then)
}

// screen is where the demo is shown.
type screen struct {
	w      io.Writer
	colour bool
}

// newScreen returns the screen on w; colours are for terminals that want them.
func newScreen(w io.Writer) *screen {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return &screen{w: w}
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &screen{w: w, colour: err == nil}
}

func (s *screen) print(format string, args ...any) { fmt.Fprintf(s.w, format, args...) }

// paint returns text in a colour of the terminal, "32" for green.
func (s *screen) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// The widths of the table's columns. With the mark before them they come to 98.
var columns = [...]int{37, 27, 26}

// heading begins a table.
func (s *screen) heading() {
	s.row("  ", "sent by the load balancer", "seen by the old server", "logged by the gateway")
	rule := func(i int) string { return strings.Repeat("-", columns[i]) }
	s.row("  ", rule(0), rule(1), rule(2))
}

// row writes a row; cells are wrapped.
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

// result writes the row of a scene and, below it, what should have been.
func (s *screen) result(sent, seen, logged string, wrong []string) {
	mark := s.paint("32", "ok")
	if len(wrong) > 0 {
		mark = s.paint("31", "NO")
	}
	s.row(mark, sent, seen, logged)
	for _, w := range wrong {
		s.print("      %s\n", s.paint("31", w))
	}
}
