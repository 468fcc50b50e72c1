package toa

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/transparent/toa/attach"
)

// runCheck tries what attach does, and looks at what is attached.
func runCheck(ctx *cli.Context) error {
	cgroup, err := cgroupOf(ctx)
	if err != nil {
		return report(ctx, err)
	}
	printf(ctx.App.Writer, "ok    cgroup %s\n", cgroup)
	tried, err := attach.Try(cgroup, roleOf(ctx))
	if err != nil {
		return report(ctx, err)
	}
	printf(ctx.App.Writer, "ok    Linux %s loads and attaches the %s's programs\n", attach.Kernel(), roleOf(ctx))
	if tried.Others != nil {
		printf(ctx.App.Writer, "ok    beside programs of others: %s\n", otherWords(tried.Others))
	}
	if roleOf(ctx) == attach.Server {
		checkMarking(ctx, tried.MarkErr)
	}
	return checkAttached(ctx, cgroup)
}

// report prints a problem with its remedy.
func report(ctx *cli.Context, err error) error {
	printf(ctx.App.Writer, "FAIL  %s\n", value.OneLine(err.Error()))
	if hint := config.HintOf(err); hint != "" {
		printf(ctx.App.Writer, "      %s\n", hint)
	}
	return usage.Reported(usage.ExitHostCheck)
}

func checkMarking(ctx *cli.Context, err error) {
	if err != nil {
		printf(ctx.App.Writer, "warn  servers that run already must be restarted after attach: %s\n", value.OneLine(err.Error()))
		return
	}
	printf(ctx.App.Writer, "ok    servers that run already need no restart\n")
}

// checkAttached looks at the programs of the role that are attached to the cgroup.
func checkAttached(ctx *cli.Context, cgroup string) error {
	all, err := attach.List(cgroup)
	if err != nil {
		return report(ctx, err)
	}
	for _, a := range all {
		if a.Role != roleOf(ctx) || a.Cgroup != cgroup {
			continue
		}
		if len(a.Missing) > 0 {
			return report(ctx, fmt.Errorf("detached by someone: %v; run unproxy toa attach again", a.Missing))
		}
		if a.Role == attach.Server {
			if l := a.Listeners(); len(l.Uncovered) > 0 {
				return report(ctx, fmt.Errorf("listeners that are not covered: restart the servers on port %s", portWords(l.Uncovered)))
			}
		}
		printf(ctx.App.Writer, "ok    attached\n")
		return nil
	}
	printf(ctx.App.Writer, "note  nothing is attached to it\n")
	return nil
}
