package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

const routesHelp = `In transparent mode the backends reply to the addresses of the clients, and this host
must deliver those replies to the gateway. The rules and routes for that depend on the
forwards and on where the backends are:

  on loopback, or on a dummy interface   a rule for the address and port
  on another address of this host        the packet filter marks the replies on the
                                         connections of the gateway, and no others
  on a link: container, namespace, host  a rule; marks if this host forwards packets,
                                         since other hosts may use the backend

The commands take the flags of unproxy serve. They change only what they created.

Example:
  unproxy routes print --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent`

// routesCommand returns "unproxy routes".
func routesCommand(g *given) *cli.Command {
	formats := strings.Join(returnpath.FormatNames(), ", ")
	return &cli.Command{
		Name: "routes", Usage: "manage the return path of transparent mode: rules and routes", Description: routesHelp,
		Subcommands: []*cli.Command{
			routesSubcommand(g, &cli.Command{
				Name: "print", Usage: "print the rules and routes, for this host or the backends' host",
				Description: routesPrintHelp, Action: func(ctx *cli.Context) error { return routesPrint(ctx, g) },
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "format", Value: returnpath.Shell.String(), Usage: "print as `FORMAT`: " + formats},
					&cli.BoolFlag{Name: "backend-host", Usage: "print what the host of the backends needs, if that is another host"},
					&cli.StringSliceFlag{Name: "gateway", Usage: "with --backend-host: the address of a gateway for that host, " +
						"`ADDR[+ADDR][=MAC]` or dev:INTERFACE; repeatable"},
				},
			}),
			routesSubcommand(g, &cli.Command{
				Name: "apply", Usage: "add the missing rules and routes",
				Description: routesApplyHelp, Action: func(ctx *cli.Context) error { return routesApply(ctx, g) },
			}),
			routesSubcommand(g, &cli.Command{
				Name: "remove", Usage: "remove the rules and routes",
				Description: routesRemoveHelp, Action: func(ctx *cli.Context) error { return routesRemove(ctx, g) },
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "all", Usage: "everything that uses the table and the mark, also from another configuration"},
				},
			}),
			routesSubcommand(g, &cli.Command{
				Name: "check", Usage: "report which rules and routes are missing",
				Description: routesCheckHelp, Action: func(ctx *cli.Context) error { return routesCheck(ctx, g) },
			}),
		},
	}
}

// routesSubcommand adds the flags of the gateway to a subcommand, hidden because
// the help of serve lists them.
func routesSubcommand(g *given, c *cli.Command) *cli.Command {
	c.UsageText = "unproxy routes " + c.Name + " [flags] [flags of unproxy serve]"
	c.Flags = append(c.Flags, hidden(g.flags())...)
	return c
}

const (
	routesPrintHelp = `Examples:
  # shell commands
  unproxy routes print --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent

  # a file for systemd-networkd
  unproxy routes print --format networkd --forward :25=10.9.0.2:25 --trust 10.0.0.0/8 \
      --transparent

  # for the host of the backend, behind two gateways
  unproxy routes print --backend-host --gateway 10.9.0.5 --gateway 10.9.0.6 \
      --forward :25=10.9.0.2:25 --trust 10.0.0.0/8 --transparent`
	routesApplyHelp = `Needs CAP_NET_ADMIN; the gateway itself does not. Prints each command as it is
executed. Rules and routes that exist already stay as they are.

Example, in a systemd unit beside that of the gateway, with the same variables:
  ExecStart=unproxy routes apply
  ExecStop=unproxy routes remove`
	routesRemoveHelp = `Needs CAP_NET_ADMIN. Keeps what other gateways on this host need. Also removes what is
left of earlier addresses of backends that are given by name.

Example:
  unproxy routes remove --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent`
	routesCheckHelp = `unproxy doctor also makes a test connection.

Exit codes: 0 complete, 2 configuration error, 3 something is missing.

Example:
  unproxy routes check --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent`
)

// plan returns the plan for the given configuration. If a name does not resolve, it
// returns a plan for the other backends and an error.
func plan(ctx *cli.Context, g *given) (returnpath.Plan, configuration, error) {
	c, err := configure(g, 0)
	if err != nil {
		return returnpath.Plan{}, c, err
	}
	p, err := routing.Plan(ctx.Context, c.gateway.Targets(), routing.Surroundings{})
	if err == nil && p.Empty() && len(p.Notes) == 0 {
		err = usage.Errorf("no forward is transparent: plain connections need no routes").
			WithHint("give the flags of the gateway, with --transparent")
	}
	return p, c, err
}

func routesPrint(ctx *cli.Context, g *given) error {
	i, err := value.Word(ctx.String("format"), returnpath.FormatNames()...)
	if err != nil {
		return config.FlagProblem("format", ctx.String("format"), err)
	}
	if !ctx.Bool("backend-host") && len(ctx.StringSlice("gateway")) > 0 {
		return usage.Errorf("--gateway has no effect without --backend-host").WithHint("add --backend-host")
	}
	p, _, err := plan(ctx, g)
	if p.Empty() {
		warnNotes(ctx.App.ErrWriter, p)
		return err
	}
	if ctx.Bool("backend-host") {
		return printBackendHost(ctx, p)
	}
	fmt.Fprint(ctx.App.Writer, p.Print(returnpath.Format(i)))
	return err
}

func routesApply(ctx *cli.Context, g *given) error {
	p, _, unresolved := plan(ctx, g)
	warnNotes(ctx.App.ErrWriter, p)
	if p.Empty() {
		return unresolved
	}
	return traced(ctx, func(run context.Context, trace func(string)) error {
		err := routing.Apply(run, p, trace)
		if errors.Is(err, routing.ErrReassembly) {
			warn(ctx.App.ErrWriter, fmt.Sprintf("%v: apt install nftables, and run this again", err))
			err = nil
		}
		if err != nil {
			return err
		}
		warnStale(ctx, p)
		return unresolved
	})
}

func routesRemove(ctx *cli.Context, g *given) error {
	if ctx.Bool("all") {
		c, err := configure(g, 0)
		if err != nil {
			return err
		}
		return traced(ctx, func(run context.Context, trace func(string)) error {
			return routing.RemoveAll(run, c.gateway.Routes, trace)
		})
	}
	p, _, unresolved := plan(ctx, g)
	// Even if no name resolves, rules of earlier addresses may remain.
	if p.Empty() && p.Options.Owner == 0 {
		return unresolved
	}
	return traced(ctx, func(run context.Context, trace func(string)) error {
		if err := routing.Remove(run, p, trace); err != nil {
			return err
		}
		return unresolved
	})
}

// traced runs a function that changes the host, and prints each step.
func traced(ctx *cli.Context, do func(context.Context, func(string)) error) error {
	run, stop := signal.NotifyContext(ctx.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	steps := 0
	err := do(run, func(command string) {
		steps++
		fmt.Fprintf(ctx.App.Writer, "[#] %s\n", command)
	})
	switch {
	case err != nil:
		return err
	case steps == 0:
		fmt.Fprintln(ctx.App.Writer, "ok: nothing to change")
	default:
		fmt.Fprintf(ctx.App.Writer, "ok: %s\n", value.Plural(steps, "step"))
	}
	return nil
}

func routesCheck(ctx *cli.Context, g *given) error {
	p, _, err := plan(ctx, g)
	warnNotes(ctx.App.ErrWriter, p)
	if p.Empty() || err != nil {
		return err
	}
	warnStale(ctx, p)
	missing, err := routing.Missing(ctx.Context, p)
	if errors.Is(err, routing.ErrNoNFT) && p.Filter.IsOptional() {
		warn(ctx.App.ErrWriter, fmt.Sprintf("%v: %v", routing.ErrReassembly, err))
		p.Filter, err = nil, nil
	}
	if err != nil {
		return err
	}
	missing = routing.WithoutCovered(missing, routing.Lookup)
	absent := map[string]bool{}
	for _, c := range missing.Commands() {
		absent[c] = true
	}
	for _, c := range p.Commands() {
		fmt.Fprintf(ctx.App.Writer, "%-9s%s\n", either(absent[c], "missing", "ok"), c)
	}
	if len(absent) == 0 {
		return nil
	}
	fmt.Fprintf(ctx.App.Writer, "%d of %d missing: run unproxy routes apply with the same flags\n",
		len(absent), len(p.Commands()))
	return usage.Reported(usage.ExitHostCheck)
}

// warnNotes prints the notes of a plan as warnings.
func warnNotes(w io.Writer, p returnpath.Plan) {
	for _, n := range p.Notes {
		warn(w, n.String())
	}
}

// warnStale warns about rules that remain from an earlier address of a backend. It
// ignores errors: the command reads the same state and reports them.
func warnStale(ctx *cli.Context, p returnpath.Plan) {
	stale, _ := routing.Stale(ctx.Context, p)
	for _, command := range stale {
		warn(ctx.App.ErrWriter, "the address of a backend has changed, and this remains of the former one: "+
			command+": run unproxy routes remove with the same flags, then apply")
	}
}

func warn(w io.Writer, message string) {
	fmt.Fprintf(messages(w), "unproxy: warning: %s\n", value.OneLine(message))
}
