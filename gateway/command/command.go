// Package command implements the command line of unproxy, with one file per command.
// Larger commands have their own packages: probe, decode, demo and migrate. Package usage has
// shared code.
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
	"unproxy/gateway/command/migrate"
	"unproxy/gateway/command/probe"
	"unproxy/gateway/command/toa"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/daemon"
)

// Main runs a command line and returns the exit code, see [usage.ExitCode]. args[0] is
// the name of the program. Output goes to stdout; errors, hints and the log go to
// stderr. Environment variables are those of the process.
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
			&cli.BoolFlag{Name: "help", Aliases: []string{"h"}}), // the library adds none if there is a command "help"
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
		migrate.Command(),
		toa.Command(),
		clientsCommand(g),
		banCommand(g),
		unbanCommand(g),
		bansCommand(g),
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

// serviceFile holds the settings of the packaged systemd unit.
const serviceFile = "/etc/default/unproxy"

// emptyHint returns the hint for a configuration without a forward. It names the
// service's file if that exists and was not read; else it is "", the default hint.
func (g *given) emptyHint() string {
	if _, err := os.Stat(serviceFile); err != nil || len(g.values[config.EnvFileFlag]) > 0 {
		return ""
	}
	return "the settings of the service are in " + serviceFile + ": --env-file " + serviceFile
}

// configure parses the flags, environment files and environment variables. activated
// is the number of sockets passed by systemd. It returns warnings with or without an
// error.
func configure(g *given, activated int) (configuration, error) {
	warnings, envErr := g.environment(os.Environ())
	if envErr != nil {
		return configuration{warnings: warnings}, envErr // other errors would be consequences of the missing settings
	}
	endpoint, about, adminErr := adminSettings(g)
	config, more, err := config.Load(config.Source{
		Forwards:    g.values[config.ForwardFlag],
		Settings:    g.values,
		Descriptors: daemon.Descriptors(),
		Memory:      daemon.Memory(),
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
