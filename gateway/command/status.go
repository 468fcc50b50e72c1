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

// askTimeout is the time limit for an answer of the admin endpoint.
const askTimeout = 10 * time.Second

// watchInterval is the interval of status --watch.
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
		Flags: append(g.pick(config.EnvFileFlag),
			adminFlag(g),
			usage.JSONFlag(),
			&cli.BoolFlag{Name: "watch", Usage: "refresh every " + watchInterval.String() + " until interrupted"},
			&cli.IntFlag{Name: "connections", Value: 10, Usage: "list `N` connections"},
			&cli.StringFlag{Name: "sort", Value: "age", Usage: "sort connections by `ORDER`, descending: age, bytes, idle or held"},
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
		most: wholeStatus, out: ctx.App.Writer, terminal: accesslog.IsTerminal(ctx.App.Writer),
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
	if !v.terminal || v.json {
		return v.watch(until, again.C)
	}
	in, _ := ctx.App.Reader.(*os.File)
	v.most = onScreen
	if _, height := terminalSize(v.out, in); !ctx.IsSet("connections") {
		v.connections = max(v.connections, height)
	}
	return v.watchScreen(until, stop, in, again.C)
}

// viewer prints the status of a gateway.
type viewer struct {
	client      *admin.Client
	json        bool
	connections int
	sort        string
	most        listed
	out         io.Writer
	terminal    bool
}

// check validates the flags.
func (v *viewer) check() error {
	if v.connections < 0 || v.connections > 10_000 {
		return usage.Errorf("--connections %d is not a number from 0 to 10000", v.connections)
	}
	switch v.sort {
	case "age", "bytes", "idle", "held":
		return nil
	}
	return usage.Errorf("--sort %q is not one of age, bytes, idle, held", value.Shorten(v.sort))
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
		text := v.askAnyway(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if _, err := io.WriteString(v.out, text+"\n"); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		}
	}
}

// watchScreen is watch on a terminal. It adapts to changes of its size.
func (v *viewer) watchScreen(ctx context.Context, quit context.CancelFunc, in *os.File, again <-chan time.Time) error {
	s := openScreen(v.out, in, quit)
	defer s.close()
	for {
		text := v.askAnyway(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := s.show(text); err != nil {
			return err
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-s.resized:
				if err := s.redraw(); err != nil {
					return err
				}
			case <-again:
				waiting = false
			}
		}
	}
}

// askAnyway returns the status, or the text of the error.
func (v *viewer) askAnyway(ctx context.Context) string {
	text, err := v.ask(ctx)
	if err != nil {
		return value.OneLine(err.Error()) + "\n"
	}
	return text
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
	writeStatus(&b, s, c, v.most)
	return b.String(), nil
}
