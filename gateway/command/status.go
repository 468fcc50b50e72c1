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
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
)

// askTimeout is how long an admin endpoint may take to answer.
const askTimeout = 10 * time.Second

// watchInterval is how often status --watch refreshes.
const watchInterval = 2 * time.Second

const statusHelp = `Asks the admin endpoint of a running gateway. Prints the forwards with their rates, the
trust rules, recent refusals with hints, problems of the host, and connections.

Exit codes: 0 success, 1 no answer, 2 usage error.

Examples:
  unproxy status
  unproxy status --watch --connections 20 --sort bytes
  unproxy status --admin unix:/run/unproxy/admin.sock
  unproxy status --json | jq '.forwards[].rates'`

// statusCommand returns "unproxy status".
func statusCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "print the state of a running gateway", Description: statusHelp,
		Flags: append(pick(g.flags(), config.EnvFileFlag),
			adminFlag(g),
			usage.JSONFlag(),
			&cli.BoolFlag{Name: "watch", Usage: "refresh every " + watchInterval.String() + " until interrupted"},
			&cli.IntFlag{Name: "connections", Value: 10, Usage: "list `N` connections"},
			&cli.StringFlag{Name: "sort", Value: "age", Usage: "sort connections by `ORDER`, descending: age, bytes or idle"},
		),
		Action: func(ctx *cli.Context) error { return runStatus(ctx, g) },
	}
}

// runStatus prints the status once, or repeatedly with --watch.
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
	again := time.NewTicker(watchInterval)
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

// check validates the flags.
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

// watch prints the status now and at each tick until ctx is done. If the gateway
// does not answer, it prints the error and tries again at the next tick.
func (v *viewer) watch(ctx context.Context, again <-chan time.Time) error {
	for {
		text, err := v.ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			text = value.OneLine(err.Error()) + "\n"
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

// page replaces the previous text on a terminal. It clears each line to its end
// and then the rest of the screen, which flickers less than clearing first
// (ECMA-48: CUP, EL, ED).
func (v *viewer) page(text string) string {
	if !v.terminal {
		return text + "\n"
	}
	return "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
}

// ask requests the status and formats it.
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
