package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"unproxy/gateway/config"

	"github.com/urfave/cli/v2"
)

const healthcheckHelp = `Asks a running gateway whether it is ready for new connections.
It is for container images without a shell and without curl.

The endpoint is that of --admin or UNPROXY_ADMIN, as for the gateway, else that of
--health or UNPROXY_HEALTH.

Exit codes: 0 ready, 1 not ready or no answer, 2 usage error.

Examples:
  unproxy healthcheck --timeout 2s

  # in a Dockerfile
  HEALTHCHECK CMD ["/unproxy", "healthcheck"]`

// healthcheckCommand returns "unproxy healthcheck".
func healthcheckCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "healthcheck", Usage: "succeed if a running gateway is ready", Description: healthcheckHelp,
		Flags: append(pick(g.flags(), config.EnvFileFlag),
			adminFlag(g), healthFlag(g),
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
	reasons, err := client.Readiness(limited)
	if err != nil {
		return err
	}
	if len(reasons) == 0 {
		_, err = fmt.Fprintln(ctx.App.Writer, "ready")
		return err
	}
	var words []string
	for _, r := range reasons {
		words = append(words, strings.TrimSuffix(r.Word+": "+r.Detail, ": "))
	}
	return fmt.Errorf("not ready: %s", strings.Join(words, "; "))
}
