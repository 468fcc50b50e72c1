package command

import (
	"context"
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

const routesHelp = `In transparent mode the backends answer the clients' own addresses, and this host
must hand those replies to the gateway. Which rules and routes do so follows from
the forwards, and from where this host finds the backends:

  on loopback, or on a dummy interface   a rule for its address and port
  on another address of this host        the packet filter marks the replies of the
                                         gateway's connections, and no others
  on a link: container, namespace, host  a rule; marks where this host forwards
                                         packets, since others may use the backend

It takes the flags of unproxy serve, and changes nothing but what it made itself.`

// routesCommand is "unproxy routes".
func routesCommand(g *given) *cli.Command {
	command := func(name, usage, description string, run func(*cli.Context, *given) error, own ...cli.Flag) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage, UsageText: "unproxy routes " + name + " [flags] [flags of unproxy serve]",
			Description: description,
			Flags:       append(own, hidden(g.flags())...), Action: func(ctx *cli.Context) error { return run(ctx, g) },
		}
	}
	return &cli.Command{
		Name: "routes", Usage: "the rules and routes that bring replies back in transparent mode", Description: routesHelp,
		Subcommands: []*cli.Command{
			command("print", "write them down, for this host or the backends' host", routesPrintHelp, routesPrint,
				&cli.StringFlag{Name: "format", Value: returnpath.Shell.String(), Usage: "write them as `FORMAT`: " + strings.Join(returnpath.FormatNames(), ", ")},
				&cli.BoolFlag{Name: "backend-host", Usage: "write what the host of the backends needs, where that is another one"},
				&cli.StringSliceFlag{Name: "gateway", Usage: "with --backend-host: a gateway as that host sees it, `ADDR[+ADDR][=MAC]` or dev:INTERFACE; repeatable"}),
			command("apply", "put them into force; again changes nothing", routesApplyHelp, routesApply),
			command("remove", "take them away", routesRemoveHelp, routesRemove,
				&cli.BoolFlag{Name: "all", Usage: "whatever uses the table and the mark: also what another configuration left"}),
			command("check", "say what of them is in force", routesCheckHelp, routesCheck),
		},
	}
}

const (
	routesPrintHelp = `Examples:
  # what a shell would run
  unproxy routes print --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent

  # a file for systemd-networkd
  unproxy routes print --format networkd --forward :25=10.9.0.2:25 --trust 10.0.0.0/8 --transparent

  # for the host of the backend, to which two gateways lead
  unproxy routes print --backend-host --gateway 10.9.0.5 --gateway 10.9.0.6 \
      --forward :25=10.9.0.2:25 --trust 10.0.0.0/8 --transparent`
	routesApplyHelp = `Takes CAP_NET_ADMIN; the gateway itself does not. Prints each command that it
stands for. What is in force already stays as it is.

Example, in a systemd unit beside that of the gateway, with the same variables:
  ExecStart=unproxy routes apply
  ExecStop=unproxy routes remove`
	routesRemoveHelp = `Takes CAP_NET_ADMIN. Leaves alone what other gateways on this host need.

Example:
  unproxy routes remove --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent`
	routesCheckHelp = `Exit code 3 if something is missing. unproxy doctor tries a connection as well.

Example:
  unproxy routes check --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent`
)

// hidden keeps flags out of the help.
func hidden(flags []cli.Flag) []cli.Flag {
	for _, f := range flags {
		if generic, ok := f.(*cli.GenericFlag); ok {
			generic.Hidden = true
		}
	}
	return flags
}

// plan makes the plan for what was given, and prints what is doubtful. A name
// that does not resolve leaves a plan for the rest, and an error.
func plan(ctx *cli.Context, g *given) (returnpath.Plan, configuration, error) {
	c, err := configure(g, 0)
	if err != nil {
		return returnpath.Plan{}, c, err
	}
	p, err := routing.Plan(ctx.Context, c.gateway.Targets(), routing.Surroundings{})
	if err == nil && p.Empty() && len(p.Notes) == 0 {
		err = noRoutes()
	}
	return p, c, err
}

// noRoutes is what there is to say where no forward needs any.
func noRoutes() error {
	return config.NewProblem("no forward is transparent: plain connections need no routes",
		"give the flags of the gateway, --transparent among them")
}

func routesPrint(ctx *cli.Context, g *given) error {
	i, err := value.Word(ctx.String("format"), returnpath.FormatNames()...)
	if err != nil {
		return config.FlagProblem("format", ctx.String("format"), err)
	}
	if !ctx.Bool("backend-host") && len(ctx.StringSlice("gateway")) > 0 {
		return usage.Errorf("--gateway does nothing without --backend-host").WithHint("add --backend-host")
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
		if err := routing.Apply(run, p, trace); err != nil {
			return err
		}
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
	if p.Empty() {
		return unresolved
	}
	return traced(ctx, func(run context.Context, trace func(string)) error {
		if err := routing.Remove(run, p, trace); err != nil {
			return err
		}
		return unresolved
	})
}

// traced runs what changes the host and prints each step.
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
		fmt.Fprintln(ctx.App.Writer, "ok: nothing had to be changed")
	default:
		fmt.Fprintf(ctx.App.Writer, "ok: %s\n", usage.Plural(steps, "step"))
	}
	return nil
}

func routesCheck(ctx *cli.Context, g *given) error {
	p, _, err := plan(ctx, g)
	warnNotes(ctx.App.ErrWriter, p)
	if p.Empty() || err != nil {
		return err
	}
	missing, err := routing.Missing(ctx.Context, p)
	if err != nil {
		return err
	}
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
	fmt.Fprintf(ctx.App.Writer, "%d of %d missing: unproxy routes apply, with the same flags\n", len(absent), len(p.Commands()))
	return usage.Reported(usage.ExitHostCheck)
}

// warnNotes prints what the operator has to know of a plan.
func warnNotes(w io.Writer, p returnpath.Plan) {
	for _, n := range p.Notes {
		fmt.Fprintf(w, "unproxy: warning: %s\n", usage.OneLine(n.String()))
	}
}
