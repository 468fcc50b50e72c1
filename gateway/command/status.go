package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/accesslog"
	"unproxy/gateway/admin"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/config/value"
)

// usualAdmin is where status and healthcheck ask when nothing says where.
const usualAdmin = "127.0.0.1:9180"

// askTimeout is how long an admin endpoint may take to answer.
const askTimeout = 10 * time.Second

// watchEvery is how often status --watch looks anew.
const watchEvery = 2 * time.Second

const statusHelp = `Asks the admin endpoint of a running gateway, and prints what it forwards and to
where, what goes on, whom it trusts, and who was refused lately, with what to do
about it.

Examples:
  unproxy status
  unproxy status --watch --connections 20 --sort bytes
  unproxy status --admin unix:/run/unproxy/admin.sock
  unproxy status --json | jq '.forwards[].rates'`

// adminFlag is the flag --admin of the commands that ask an endpoint. It is that
// of the gateway, and so is its variable.
func adminFlag(g *given) cli.Flag {
	return &cli.GenericFlag{Name: "admin", Usage: "ask the endpoint at `ADDR` (default: " + usualAdmin + ")", Value: &recorder{into: g, name: "admin"}}
}

// adminClient returns a client of the endpoint that was given.
func adminClient(g *given) (*admin.Client, error) {
	g.environment(os.Environ())
	text := usualAdmin
	if values := g.values["admin"]; len(values) > 0 {
		text = values[len(values)-1]
	}
	a, err := admin.ParseAddress(text, true)
	if err != nil {
		return nil, err
	}
	return admin.NewClient(a), nil
}

// statusCommand is "unproxy status".
func statusCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "print what a running gateway does", Description: statusHelp,
		Flags: []cli.Flag{
			adminFlag(g),
			usage.JSONFlag(),
			&cli.BoolFlag{Name: "watch", Usage: "look again every " + watchEvery.String() + ", until interrupted"},
			&cli.IntFlag{Name: "connections", Value: 10, Usage: "list `N` connections"},
			&cli.StringFlag{Name: "sort", Value: "age", Usage: "by `ORDER`: age, bytes or idle, the most first"},
		},
		Action: func(ctx *cli.Context) error { return runStatus(ctx, g) },
	}
}

// runStatus prints the status once, or again and again.
func runStatus(ctx *cli.Context, g *given) error {
	client, err := adminClient(g)
	if err != nil {
		return err
	}
	v := &viewer{
		client: client, json: ctx.Bool("json"), connections: ctx.Int("connections"), sort: ctx.String("sort"),
		out: ctx.App.Writer, terminal: accesslog.IsTerminal(ctx.App.Writer),
	}
	if err := v.check(); err != nil {
		return err
	}
	if !ctx.Bool("watch") {
		return v.show(ctx.Context)
	}
	until, stop := signal.NotifyContext(ctx.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	again := time.NewTicker(watchEvery)
	defer again.Stop()
	return v.watch(until, again.C)
}

// viewer prints the status of a gateway.
type viewer struct {
	client      *admin.Client
	json        bool
	connections int
	sort        string
	out         io.Writer
	terminal    bool
}

func (v *viewer) check() error {
	if v.connections < 0 || v.connections > 10_000 {
		return usage.Errorf("--connections %d is not a number from 0 to 10000", v.connections)
	}
	switch v.sort {
	case "age", "bytes", "idle":
		return nil
	}
	return usage.Errorf("--sort %q is none of age, bytes, idle", value.Shorten(v.sort))
}

// show prints the status once.
func (v *viewer) show(ctx context.Context) error {
	text, err := v.ask(ctx)
	if err != nil {
		return err
	}
	_, err = io.WriteString(v.out, text)
	return err
}

// watch prints the status now and at each tick until ctx is done. A gateway that
// does not answer may be back at the next.
func (v *viewer) watch(ctx context.Context, again <-chan time.Time) error {
	for {
		text, err := v.ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			text = usage.OneLine(err.Error()) + "\n"
		}
		if _, err := io.WriteString(v.out, v.page(text)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		}
	}
}

// page puts a text in the place of the one before: each line is cleared to its
// end, and then whatever was below, which flickers less than to clear first
// (ECMA-48: CUP, EL, ED).
func (v *viewer) page(text string) string {
	if !v.terminal {
		return text + "\n"
	}
	return "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
}

// ask gets the status and writes it out.
func (v *viewer) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := v.client.Status(ctx)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if v.json {
		err = usage.PrintJSON(&b, s)
		return b.String(), err
	}
	var c *admin.Connections
	if v.connections > 0 {
		if c, err = v.client.Connections(ctx, fmt.Sprintf("limit=%d&sort=%s", v.connections, v.sort)); err != nil {
			return "", err
		}
	}
	writeStatus(&b, s, c)
	return b.String(), nil
}

const healthcheckHelp = `Asks the admin endpoint of a gateway whether new connections are welcome: exit
code 0 if they are, 1 if not or if nobody answers. It is for images without a
shell and without curl:

  HEALTHCHECK CMD ["/unproxy", "healthcheck"]

The endpoint is that of --admin or UNPROXY_ADMIN, which the gateway may take, too.`

// healthcheckCommand is "unproxy healthcheck".
func healthcheckCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "healthcheck", Usage: "exit with 0 if a running gateway is ready", Description: healthcheckHelp,
		Flags: []cli.Flag{
			adminFlag(g),
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Second, Usage: "wait for the answer for `D`"},
		},
		Action: func(ctx *cli.Context) error { return runHealthcheck(ctx, g) },
	}
}

// runHealthcheck asks once.
func runHealthcheck(ctx *cli.Context, g *given) error {
	client, err := adminClient(g)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx.Context, ctx.Duration("timeout"))
	defer cancel()
	reasons, err := client.Readiness(limited)
	if err != nil {
		return err
	}
	if len(reasons) == 0 {
		_, err = fmt.Fprintln(ctx.App.Writer, "ready")
		return err
	}
	var words []string
	for _, r := range reasons {
		words = append(words, strings.TrimSuffix(r.Word+": "+r.Detail, ": "))
	}
	return fmt.Errorf("not ready: %s", strings.Join(words, "; "))
}
