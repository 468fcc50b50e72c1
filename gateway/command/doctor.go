package command

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/accesslog"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/daemon"
	"unproxy/gateway/doctor"
)

const doctorUsage = `Looks at what is in force on this host: capabilities, limits, listeners, backends,
the rules that bring replies back. In transparent mode it connects to each backend
from an address of the documentation's networks, as the gateway does for a client.
What is wrong comes with the commands that mend it. Nothing is changed.

Run it as the gateway runs: as the same user, with the same flags or variables,
in the same container. It may run beside the gateway.

Examples:
  unproxy doctor --forward :2222=127.0.0.1:22 --trust 10.0.0.2 --transparent

  # what it would say with the capability and nothing else
  setpriv --reuid nobody --regid nogroup --clear-groups \
      --inh-caps +net_raw --ambient-caps +net_raw --bounding-set -all,+net_raw \
      unproxy doctor --forward :2222=127.0.0.1:22 --trust 10.0.0.2 --transparent

  # for a monitor: the codes of what failed
  unproxy doctor --json --forward … | jq -r '.findings[] | select(.status == "fail").code'

Exit codes: 0 well, perhaps with warnings; 2 the configuration is wrong; 3 something
failed.`

// doctorCommand is "unproxy doctor".
func doctorCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "find out what is wrong on this host, and the commands that mend it",
		UsageText:   "unproxy doctor [--json] [--verbose] [flags of unproxy serve]",
		Description: doctorUsage,
		Flags: append([]cli.Flag{
			usage.JSONFlag(),
			&cli.BoolFlag{Name: "verbose", Usage: "say of each line what it is about, and its code"},
		}, hidden(g.flags())...),
		Action: func(ctx *cli.Context) error { return runDoctor(ctx, g) },
	}
}

// runDoctor examines the gateway that was given.
func runDoctor(ctx *cli.Context, g *given) error {
	c, err := configure(g)
	if err != nil {
		return err
	}
	report := doctor.Examine(ctx.Context, doctor.This(), doctor.Subject{
		Config: c.gateway, Warnings: c.warnings, Descriptors: daemon.Descriptors(), Printing: g.commandLine("routes print --backend-host"),
	})
	if ctx.Bool("json") {
		err = usage.PrintJSON(ctx.App.Writer, report)
	} else {
		err = printReport(ctx.App.Writer, report, ctx.Bool("verbose"))
	}
	if err == nil && report.Count(doctor.Fail) > 0 {
		return usage.Reported(usage.ExitHostCheck)
	}
	return err
}

// printReport prints a line for each finding, and below it what mends it.
func printReport(w io.Writer, r doctor.Report, verbose bool) error {
	colour := accesslog.IsTerminal(w) && os.Getenv("NO_COLOR") == ""
	columns := [2]int{len("COMPONENT"), len("TARGET")}
	for _, f := range r.Findings {
		columns[0], columns[1] = max(columns[0], len(f.Component)), max(columns[1], len(f.Target))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-*s  %-*s  STATUS  DETAIL\n", columns[0], "COMPONENT", columns[1], "TARGET")
	told := map[string]bool{} // all of it may go to a shell: a rule is refused the second time
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-*s  %-*s  %s  %s\n", columns[0], f.Component, columns[1], f.Target, statusWord(f.Status, colour), usage.OneLine(f.Detail))
		if verbose {
			fmt.Fprintf(&b, "    # %s: %s\n", f.Code, f.Code.Meaning())
		}
		action := slices.DeleteFunc(slices.Clone(f.Action), func(line string) bool { return told[line] })
		if len(action) == 0 && len(f.Action) > 0 {
			action = []string{"# see above"}
		}
		for _, line := range action {
			fmt.Fprintf(&b, "    %s\n", strings.ReplaceAll(line, "\n", "\n    "))
			told[line] = true
		}
	}
	b.WriteString(summary(r))
	_, err := io.WriteString(w, b.String())
	return err
}

// summary is the last line.
func summary(r doctor.Report) string {
	var parts []string
	for _, s := range []struct {
		status doctor.Status
		words  string
	}{{doctor.OK, "ok"}, {doctor.Warn, "to be looked at"}, {doctor.Skip, "not looked at"}, {doctor.Fail, "failed"}} {
		if n := r.Count(s.status); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s.words))
		}
	}
	return fmt.Sprintf("%s: %s\n", usage.Plural(len(r.Findings), "check"), strings.Join(parts, ", "))
}

// statusWord writes a status as wide as its column, in its colour on a terminal.
func statusWord(s doctor.Status, colour bool) string {
	word := cmp.Or(map[doctor.Status]string{doctor.Fail: "FAIL"}[s], s.String())
	word = fmt.Sprintf("%-6s", word)
	if !colour {
		return word
	}
	codes := [...]string{doctor.OK: "32", doctor.Skip: "2", doctor.Warn: "33", doctor.Fail: "1;31"}
	return "\x1b[" + codes[s] + "m" + word + "\x1b[0m"
}
