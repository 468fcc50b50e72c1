package command

import (
	"errors"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/accesslog"
	"unproxy/gateway/admin"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/gateway/daemon"
)

// runServe runs the gateway until a signal ends it.
func runServe(ctx *cli.Context, g *given) error {
	return daemon.Run(func(activated int) (daemon.Config, error) {
		c, err := configure(g, activated)
		if err != nil {
			return daemon.Config{}, err
		}
		c.log.Writer, c.log.Journal = ctx.App.ErrWriter, isJournal(ctx.App.ErrWriter)
		v := thisVersion()
		return daemon.Config{
			Gateway:      c.gateway,
			Log:          c.log,
			Admin:        c.admin,
			Warnings:     c.warnings,
			Version:      admin.Version{Version: v.Version, Revision: v.Revision, Go: v.Go},
			VersionLine:  strings.TrimPrefix(v.String(), "unproxy "),
			ApplyCommand: g.commandLine("routes apply"),
			PrintCommand: g.commandLine("routes print --backend-host"),
		}, nil
	})
}

// logConfig parses the settings of the log.
func logConfig(g *given) (accesslog.Config, error) {
	var c accesslog.Config
	var errs []error
	word := func(name string, take func(string) error, words ...string) {
		values := g.values[name]
		if len(values) == 0 {
			return
		}
		text := values[len(values)-1]
		_, err := value.Word(text, words...)
		if err == nil {
			err = take(text)
		}
		if err != nil {
			errs = append(errs, config.FlagProblem(name, text, err))
		}
	}
	word("log-format", func(s string) (err error) { c.Format, err = accesslog.ParseFormat(s); return err },
		"auto", "json", "console")
	word("log-level", func(s string) (err error) { c.Level, err = accesslog.ParseLevel(s); return err },
		"debug", "info", "warn", "error")
	word("access-log", func(s string) (err error) { c.Mode, err = accesslog.ParseMode(s); return err },
		"all", "errors", "off")
	return c, errors.Join(errs...)
}
