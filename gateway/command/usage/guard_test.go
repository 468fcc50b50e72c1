package usage

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/config"
)

// errRan is what the commands of testApp return when they run.
var errRan = errors.New("ran")

func testApp() *cli.App {
	run := func(*cli.Context) error { return errRan }
	app := NewApp(&cli.Command{
		Name: "unproxy", Action: run,
		Flags: []cli.Flag{&cli.StringFlag{Name: "forward"}, &cli.StringFlag{Name: "trust"}},
		Subcommands: []*cli.Command{
			{Name: "plain", Usage: "do it", Action: run, Flags: []cli.Flag{
				&cli.BoolFlag{Name: "json", Usage: "print JSON"},
				&cli.BoolFlag{Name: "secret", Hidden: true},
				&cli.IntFlag{Name: "count", Usage: "make `N` connections"},
				&cli.DurationFlag{Name: "timeout", Usage: "wait `D`", Value: time.Second},
				&cli.StringFlag{Name: "file", Usage: "`PATH` a file"},
				&cli.StringFlag{Name: "odd", Usage: "anything", Value: "a\\r"},
			}},
			{Name: "one", Usage: "take an argument", ArgsUsage: "NAME", Action: func(ctx *cli.Context) error {
				_, err := Argument(ctx, "name")
				return errors.Join(err, errRan)
			}},
			{Name: "group", Usage: "group", Subcommands: []*cli.Command{{Name: "below", Usage: "be below", Action: run}}},
			{Name: "shy", Hidden: true, Action: run},
		},
	})
	app.Writer, app.ErrWriter = io.Discard, io.Discard
	return app
}

// Each row is a mistake that the library ignores, or for which it prints the whole
// help. None of them may run a command.
func TestGuard(t *testing.T) {
	for _, tt := range []struct{ args, want, hint string }{
		{"plain now", `unexpected argument "now"`, "every value needs its flag before it, see unproxy --help"},
		{"plain forward", `unexpected argument "forward"`, "did you mean --forward?"},
		{"plain 10.0.0.0/8", `unexpected argument "10.0.0.0/8"`, "a trusted peer needs its flag: --trust 10.0.0.0/8"},
		{"plain :1=a:2?x", `unexpected argument ":1=a:2?x"`, "a forward needs its flag: --forward ':1=a:2?x'"},
		{"plian", `unknown command "plian"`, "did you mean unproxy plain?"},
		{"shyy", `unexpected argument "shyy"`, "every value needs its flag before it, see unproxy --help"},
		{"group", "unproxy group needs a command", "one of below, for example: unproxy group below"},
		{"group belwo", `unknown command "belwo"`, "did you mean unproxy group below?"},
		{"group x", `unknown command "x"`, "the commands are below"},
		{"--frward x", "unknown flag --frward", "did you mean --forward?"},
		{"plain --x", "unknown flag -x", "see unproxy plain --help"},
		{"group below --xyz", "unknown flag --xyz", "see unproxy group below --help"},
		{"--trust", "--trust needs a value", "see unproxy --help"},
		{"-v", "unknown flag -v", "unproxy version"},
		{"-V", "unknown flag -V", "unproxy version"},
		{"one a b", "more than one name: a b", "give one"},
		{"one a --json", "--json comes after the name", "give flags first, the name last"},
	} {
		err := testApp().Run(append([]string{"unproxy"}, strings.Fields(tt.args)...))
		problem := config.Leaves(err)
		if ExitCode(err) != ExitUsage || problem[0].Error() != tt.want || config.HintOf(problem[0]) != tt.hint {
			t.Errorf("%q: %v, hint %q; want %q, hint %q", tt.args, err, config.HintOf(err), tt.want, tt.hint)
		}
	}
	for _, args := range []string{"", "plain --json", "one a", "group below", "shy"} {
		if err := testApp().Run(append([]string{"unproxy"}, strings.Fields(args)...)); !errors.Is(err, errRan) {
			t.Errorf("%q did not run: %v", args, err)
		}
	}
}

func TestHelpOf(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"plain --help", `unproxy plain - do it

Usage: unproxy plain [flags]

Flags:
  --json                          print JSON
  --count N                       make N connections
  --timeout D                     wait D [1s]
  --file PATH                     a file
  --odd VALUE                     anything [a\r]
  --help, -h                      print this help
`},
		{"group -h", `unproxy group - group

Usage: unproxy group COMMAND [flags]

Commands:
  below                           be below

Flags:
  --help, -h                      print this help
`},
		{"group below -h", `unproxy group below - be below

Usage: unproxy group below [flags]

Flags:
  --help, -h                      print this help
`},
		{"one -h", `unproxy one - take an argument

Usage: unproxy one [flags] NAME

Flags:
  --help, -h                      print this help
`},
	} {
		var out strings.Builder
		app := testApp()
		app.Writer = &out
		if err := app.Run(append([]string{"unproxy"}, strings.Fields(tt.args)...)); err != nil || out.String() != tt.want {
			t.Errorf("%q: %v, printed\n%swant\n%s", tt.args, err, out.String(), tt.want)
		}
	}
}
