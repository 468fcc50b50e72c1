// Package command is the command line of unproxy: one file for each command,
// which parses its flags, calls another package and prints the result. Commands
// that are programs of their own have packages: probe, decode and demo. Package
// usage has what all of them share.
package command

import (
	"errors"
	"io"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/accesslog"
	"unproxy/gateway/command/decode"
	"unproxy/gateway/command/demo"
	"unproxy/gateway/command/probe"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/daemon"
)

// Main runs the command line args, whose first word is the name of the program,
// and returns the exit code, see [usage.ExitCode]. Output goes to stdout; errors,
// hints and the log go to stderr. The environment variables are those of the
// process.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp(&given{values: config.Values{}})
	app.Reader, app.Writer, app.ErrWriter = stdin, stdout, stderr
	err := missingValues(args)
	if err == nil {
		err = app.Run(joinSwitches(args))
	}
	usage.Report(messages(stderr), err)
	return usage.ExitCode(err)
}

// newApp returns the application. Its flags write into g.
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
			&cli.BoolFlag{Name: "help", Aliases: []string{"h"}}), // the library adds none beside a command "help"
		Action: serve,
	}
	root.Subcommands = []*cli.Command{
		{Name: "serve", Usage: "run the gateway; the default command", Flags: g.flags(), Action: serve,
			CustomHelpTemplate: usage.Verbatim, Description: serveHelp()},
		checkCommand(g),
		demo.Command(),
		probe.Command(),
		doctorCommand(g),
		statusCommand(g),
		healthcheckCommand(g),
		decode.Command(),
		routesCommand(g),
		trustCommand(g),
		completionCommand(),
		versionCommand(),
		helpCommand(),
	}
	root.Description, root.CustomHelpTemplate = rootHelp(root.Subcommands), usage.Verbatim
	return usage.NewApp(root)
}

// configuration is the result of reading flags and environment variables.
type configuration struct {
	gateway  *config.Config
	log      accesslog.Config // without its writer
	admin    daemon.Admin
	warnings []config.Warning
}

// serviceFile is where the packaged systemd unit has its settings.
const serviceFile = "/etc/default/unproxy"

// emptyHint returns the hint for a configuration without a forward: "" for the usual
// one, or the file of the service's settings if there is one and it was not read.
func (g *given) emptyHint() string {
	if _, err := os.Stat(serviceFile); err != nil || len(g.values[config.EnvFileFlag]) > 0 {
		return ""
	}
	return "the settings of the service are in " + serviceFile + ": --env-file " + serviceFile
}

// configure makes a configuration of what was given, with the number of sockets that
// systemd passed. It returns the warnings even with an error.
func configure(g *given, activated int) (configuration, error) {
	warnings, envErr := g.environment(os.Environ())
	if envErr != nil {
		return configuration{warnings: warnings}, envErr // the settings are incomplete: other errors would mislead
	}
	endpoint, about, adminErr := adminSettings(g)
	config, more, err := config.Load(config.Source{
		Forwards:    g.values[config.ForwardFlag],
		Settings:    g.values,
		Descriptors: daemon.Descriptors(),
		Reserved:    daemon.Reserved(endpoint),
		PerListener: daemon.PerListener,
		Activated:   activated,
		Taken:       endpoint.Taken(),
		EmptyHint:   g.emptyHint(),
	})
	if config != nil {
		more = append(more, config.LocalhostWarnings()...)
	}
	log, logErr := logConfig(g)
	return configuration{config, log, endpoint, slices.Concat(warnings, more, about)}, errors.Join(err, logErr, adminErr)
}
