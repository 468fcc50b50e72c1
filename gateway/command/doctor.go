package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/accesslog"
	"unproxy/gateway/admin"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/config/value"
	"unproxy/gateway/daemon"
	"unproxy/gateway/doctor"
)

const doctorHelp = `Checks this host: capabilities, limits, listeners, backends, and the rules and routes
of the return path. In transparent mode it connects to each backend from an address
reserved for documentation, as the gateway does for a client. Each problem comes with
the commands that fix it. It changes nothing.

Run it the way the gateway runs: as the same user, with the same flags or variables,
in the same container. The gateway may be running.

Exit codes: 0 no failure, but warnings are possible; 2 configuration error; 3 a check
failed.

Examples:
  unproxy doctor --forward :2222=127.0.0.1:22 --trust 10.0.0.2 --transparent

  # with the capability of the gateway and no other
  setpriv --reuid nobody --regid nogroup --clear-groups \
      --inh-caps +net_raw --ambient-caps +net_raw --bounding-set -all,+net_raw \
      unproxy doctor --forward :2222=127.0.0.1:22 --trust 10.0.0.2 --transparent

  # for monitoring: the codes of failed checks
  unproxy doctor --json --forward … | jq -r '.findings[] | select(.status == "fail").code'`

// doctorCommand returns "unproxy doctor".
func doctorCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "check this host, and print the commands that fix problems",
		UsageText:   "unproxy doctor [--json] [--verbose] [flags of unproxy serve]",
		Description: doctorHelp,
		Flags: append([]cli.Flag{
			usage.JSONFlag(),
			&cli.BoolFlag{Name: "verbose", Usage: "print the code and the subject of each check"},
		}, hidden(g.flags())...),
		Action: func(ctx *cli.Context) error { return runDoctor(ctx, g) },
	}
}

// runDoctor checks the host for the given configuration.
func runDoctor(ctx *cli.Context, g *given) error {
	c, err := configure(g, 0)
	if err != nil {
		return err
	}
	report := doctor.Run(ctx.Context, doctor.This(), doctor.Subject{
		Config: c.gateway, Warnings: c.warnings, Descriptors: daemon.Descriptors(),
		PrintCommand: g.commandLine("routes print --backend-host"),
		Running:      runningGateway(ctx.Context, c.admin.Address),
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

// runningGateway asks the gateway at an admin endpoint for its findings. It returns nil if
// there is none: the doctor is of use before the first start, too.
func runningGateway(ctx context.Context, at admin.Address) *doctor.Running {
	if at.IsZero() {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := admin.NewClient(admin.Control, at).Status(limited)
	if err != nil {
		return nil
	}
	running := &doctor.Running{PID: s.PID}
	if json.Unmarshal(s.Findings, &running.Findings) != nil {
		return nil // a gateway of another version
	}
	return running
}

// printReport prints a line for each finding, and the commands that fix it below.
func printReport(w io.Writer, r doctor.Report, verbose bool) error {
	colour := accesslog.IsTerminal(w) && os.Getenv("NO_COLOR") == ""
	columns := [2]int{len("COMPONENT"), len("TARGET")}
	for _, f := range r.Findings {
		columns[0], columns[1] = max(columns[0], len(f.Component)), max(columns[1], len(f.Target))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-*s  %-*s  STATUS  DETAIL\n", columns[0], "COMPONENT", columns[1], "TARGET")
	printed := map[string]bool{} // print each command once: adding a rule twice fails
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-*s  %-*s  %s  %s\n", columns[0], f.Component, columns[1], f.Target,
			statusWord(f.Status, colour), value.OneLine(f.Detail))
		if verbose {
			fmt.Fprintf(&b, "    # %s: %s\n", f.Code, f.Code.Meaning())
		}
		commands := slices.DeleteFunc(slices.Clone(f.Hint), func(line string) bool { return printed[line] })
		if len(commands) == 0 && len(f.Hint) > 0 {
			commands = []string{"# see above"}
		}
		for _, line := range commands {
			fmt.Fprintf(&b, "    %s\n", strings.ReplaceAll(line, "\n", "\n    "))
			printed[line] = true
		}
	}
	b.WriteString(summary(r))
	_, err := io.WriteString(w, b.String())
	return err
}

// summary returns the last line, with the counts.
func summary(r doctor.Report) string {
	var parts []string
	for _, s := range []struct {
		status doctor.Status
		words  string
	}{{doctor.OK, "ok"}, {doctor.Warn, "with a warning"}, {doctor.Skip, "skipped"}, {doctor.Fail, "failed"}} {
		if n := r.Count(s.status); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s.words))
		}
	}
	return fmt.Sprintf("%s: %s\n", value.Plural(len(r.Findings), "check"), strings.Join(parts, ", "))
}

// statusWord formats a status for its column, in colour on a terminal.
func statusWord(s doctor.Status, colour bool) string {
	word := cmp.Or(map[doctor.Status]string{doctor.Fail: "FAIL"}[s], s.String())
	word = fmt.Sprintf("%-6s", word)
	if !colour {
		return word
	}
	codes := [...]string{doctor.OK: "32", doctor.Skip: "2", doctor.Warn: "33", doctor.Fail: "1;31"}
	return "\x1b[" + codes[s] + "m" + word + "\x1b[0m"
}
