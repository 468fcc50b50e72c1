package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/admin"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/readiness"
)

const healthcheckHelp = `Asks a running gateway whether it is ready for new connections.
It is for container images without a shell and without curl.

The endpoint is that of --admin or UNPROXY_ADMIN, as for the gateway, else that of
--health or UNPROXY_HEALTH.

Without --forward and --all it succeeds if any forward can serve. --forward asks about
one forward, --all whether nothing is degraded; both together ask that of one forward.

Exit codes: 0 ready, 1 not ready or no answer, 2 usage error.

Examples:
  unproxy healthcheck --timeout 2s
  unproxy healthcheck --forward :2222

  # in a Dockerfile
  HEALTHCHECK CMD ["/unproxy", "healthcheck"]`

// healthcheckCommand returns "unproxy healthcheck".
func healthcheckCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "healthcheck", Usage: "succeed if a running gateway is ready", Description: healthcheckHelp,
		Flags: append(g.pick(config.EnvFileFlag),
			adminFlag(g), healthFlag(g),
			&cli.StringFlag{Name: "forward", Usage: "ask about the forward `NAME` alone, as in its --forward (:2222)"},
			&cli.BoolFlag{Name: "all", Usage: "fail if any forward is degraded"},
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Second, Usage: "wait `D` for the answer"},
		),
		Action: func(ctx *cli.Context) error { return runHealthcheck(ctx, g) },
	}
}

// runHealthcheck queries the endpoint once and prints the answer.
func runHealthcheck(ctx *cli.Context, g *given) error {
	client, err := probeClient(g)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx.Context, ctx.Duration("timeout"))
	defer cancel()
	q := admin.ReadinessQuery{Forward: ctx.String("forward"), All: ctx.Bool("all")}
	if q.Forward == "" && ctx.IsSet("forward") {
		return usage.Errorf("--forward needs the name of a forward")
	}
	answer, err := client.Readiness(limited, q)
	if err != nil {
		return err
	}
	if !answer.Ready {
		return fmt.Errorf("not ready: %s", reasonWords(answer.Reasons))
	}
	_, err = fmt.Fprintln(ctx.App.Writer, "ready"+degradedWords(answer.Degraded))
	return err
}

// reasonWords writes reasons on one line.
func reasonWords(all []readiness.Reason) string {
	var words []string
	for _, r := range all {
		words = append(words, strings.TrimSuffix(r.Word+": "+r.Detail, ": "))
	}
	return strings.Join(words, "; ")
}

// degradedWords writes the forwards that are degraded, "" for none.
func degradedWords(all []admin.DegradedForward) string {
	if len(all) == 0 {
		return ""
	}
	var words []string
	for _, f := range all {
		words = append(words, f.Forward+" ("+reasonWords(f.Reasons)+")")
	}
	return ", degraded: " + strings.Join(words, ", ")
}
