// Package demo is "unproxy demo": it starts a gateway in this process, with a
// backend behind it and a load balancer in front of it, and shows how the gateway
// handles correct, wrong and forged headers.
//
// A scene is a connection with an expected result. The first part uses loopback. The
// second part, transparent mode, needs routes, so it runs in a child process with its
// own network namespace.
package demo

import (
	"errors"

	"unproxy/gateway/config/value"

	"github.com/urfave/cli/v2"
)

const description = `Shows what unproxy does: it starts a backend that does not speak the PROXY
protocol, a gateway in front of it, and a load balancer that sends correct, wrong
and forged headers. Everything runs on loopback and ends within seconds.

Each row is compared with the expected result.

The second part, transparent mode, needs a network namespace. The demo makes one
of its own if this host permits it.

Exit codes: 0 every row is as expected, 1 a row differs.

Example:
  unproxy demo`

// insideFlag marks the child process of the second part. Its value is the network
// namespace of the parent, in which the child must not change routes.
const insideFlag = "inside-namespace"

// Command returns "unproxy demo".
func Command() *cli.Command {
	return &cli.Command{
		Name:        "demo",
		Usage:       "show how it works, on this host and without a setup",
		Description: description,
		Flags:       []cli.Flag{&cli.StringFlag{Name: insideFlag, Hidden: true}},
		Action:      run,
	}
}

const nextSteps = `
Next steps
  unproxy --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8
                            in front of your own server; --trust is your load balancer
  unproxy check ...         what flags would do, without starting anything
  unproxy probe --help      act as a load balancer, towards a running gateway
  unproxy trust presets     the addresses of well-known load balancers
  unproxy --help            every flag
`

// run plays both parts, or only the second one in the child process.
func run(ctx *cli.Context) error {
	out := newScreen(ctx.App.Writer)
	if outside := ctx.String(insideFlag); outside != "" {
		return playInside(out, outside)
	}
	first := playHeaders(out)
	second := enterNamespace(ctx)
	var missing *unavailable
	if errors.As(second, &missing) {
		missing.print(out)
		second = nil
	}
	if err := errors.Join(first, second); err != nil {
		return err
	}
	out.print("%s", nextSteps)
	return nil
}

// unavailable says why this host cannot show the second part, and how to fix it.
type unavailable struct {
	why  error
	hint string
}

// Error returns why.
func (u *unavailable) Error() string { return u.why.Error() }

// Unwrap returns the reason.
func (u *unavailable) Unwrap() error { return u.why }

func (u *unavailable) print(out *screen) {
	out.print("\n2. Transparent mode cannot be shown on this host\n\n")
	out.print("  why   %s\n", value.OneLine(u.why.Error()))
	out.print("  hint  %s\n", u.hint)
}
