// Package command is the command line of unproxy. The library that parses it
// is known here and nowhere else.
package command

import (
	"errors"
	"io"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"unproxy/gateway"
	"unproxy/gateway/accesslog"
	"unproxy/gateway/daemon"
)

// Main runs the command line args, whose first word is the name of the program,
// and returns the exit code: 0 is well, 1 failed while running, 2 a mistake in
// the command line or the configuration. What was asked for goes to stdout;
// errors, hints and the log go to stderr. The environment is that of the
// process.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp(&given{values: gateway.Values{}})
	app.Reader, app.Writer, app.ErrWriter = stdin, stdout, stderr
	err := missingValues(args)
	if err == nil {
		err = app.Run(joinSwitches(args))
	}
	report(stderr, err)
	return exitCode(err)
}

// newApp returns the application; g receives what is given.
func newApp(g *given) *cli.App {
	serve := func(ctx *cli.Context) error {
		if ctx.Bool("version") {
			return printVersion(ctx.App.Writer, false)
		}
		return runServe(ctx, g)
	}
	root := &cli.Command{
		Name: "unproxy",
		Flags: append(g.flags(), &cli.BoolFlag{Name: "version"},
			&cli.BoolFlag{Name: "help", Aliases: []string{"h"}}), // which a command "help" keeps the library from adding
		Action: serve,
	}
	root.Subcommands = []*cli.Command{
		{Name: "serve", Usage: "run the gateway; the default", Flags: g.flags(), CustomHelpTemplate: verbatim, Description: serveHelp(), Action: serve},
		{Name: "check", Usage: "validate flags, variables and trust files; opens nothing", CustomHelpTemplate: verbatim, Description: checkHelp(),
			Flags: append(g.flags(), &cli.BoolFlag{Name: "strict"}), Action: func(ctx *cli.Context) error { return runCheck(ctx, g) }},
		demoCommand(),
		probeCommand(),
		doctorCommand(g),
		statusCommand(g),
		healthcheckCommand(g),
		decodeCommand(),
		routesCommand(g),
		trustCommand(),
		completionCommand(),
		versionCommand(),
		helpCommand(),
	}
	guard(root, "")
	return &cli.App{
		Name:                      root.Name,
		HelpName:                  root.Name,
		Flags:                     root.Flags,
		Commands:                  root.Subcommands,
		Action:                    root.Action,
		Description:               rootHelp(root.Subcommands),
		CustomAppHelpTemplate:     verbatim,
		HideVersion:               true, // ours is a plain flag, without the alias -v
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true,
		OnUsageError:              usageProblem,
		// Main prints errors and returns the code; the library would exit.
		ExitErrHandler: func(*cli.Context, error) {},
	}
}

// configuration is all that was given, in the terms of those who use it.
type configuration struct {
	gateway  *gateway.Config
	log      accesslog.Config // without its writer
	admin    daemon.Admin
	warnings []gateway.Warning
}

// configure makes a configuration of what was given, with the number of sockets that
// systemd handed over. It returns the warnings with an error, too.
func configure(g *given, activated int) (configuration, error) {
	warnings := g.environment(os.Environ())
	endpoint, about, adminErr := adminSettings(g)
	config, more, err := gateway.Load(gateway.Source{
		Forwards:    g.values[forwardOption],
		Settings:    g.values,
		Descriptors: daemon.Descriptors(),
		Reserved:    daemon.Reserved(endpoint),
		PerListener: daemon.PerListener,
		Activated:   activated,
	})
	log, logErr := logConfig(g)
	return configuration{config, log, endpoint, slices.Concat(warnings, more, about)}, errors.Join(err, logErr, adminErr)
}
