// Package migrate is "unproxy migrate": it translates the command line of another
// program to flags of unproxy.
//
// [parse] reads the other program's flags, [translate] turns them into a [result], and
// [result.print] writes it. None of the three looks at this host; [run] does, in
// between.
package migrate

import (
	"errors"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/transparent/routing"
	"unproxy/trust"
)

const description = `Prints the same set-up as flags of unproxy, what differs, and the commands that remove
the old rules and routes of this host. It changes nothing.

Exit codes: 0 success, 2 a flag is wrong.

Example:
  unproxy migrate go-mmproxy -- -l 0.0.0.0:2222 -4 127.0.0.1:22 -6 '[::1]:22' \
      -allowed-subnets /etc/go-mmproxy/subnets.txt`

// Command returns "unproxy migrate".
func Command() *cli.Command {
	return &cli.Command{
		Name: "migrate", Usage: "translate the command line of another program",
		Description: "Example:\n  unproxy migrate go-mmproxy -- -l 0.0.0.0:2222 -4 127.0.0.1:22",
		Subcommands: []*cli.Command{{
			Name: "go-mmproxy", Usage: "translate the flags of go-mmproxy", Description: description,
			UsageText: "unproxy migrate go-mmproxy -- [flags of go-mmproxy]", ArgsUsage: "[flags of go-mmproxy]",
			Action: run,
		}},
	}
}

// run translates the arguments and prints the result.
func run(ctx *cli.Context) error {
	o, err := parse(ctx.Args().Slice())
	if err != nil {
		return problems(err)
	}
	r := translate(o)
	if o.subnets != "" {
		_, _, err := trust.Load(trust.Source{Files: []string{o.subnets}})
		r.list(o.subnets, err)
	}
	if r.old, err = routing.ForeignReturnPaths(); err != nil {
		r.note("The rules of this host are not known: " + err.Error() + ".")
	}
	r.print(ctx.App.Writer)
	return nil
}

// problems returns a usage error for each error that err joins.
func problems(err error) error {
	var all []error
	for _, e := range config.Leaves(err) {
		all = append(all, usage.Errorf("go-mmproxy: %v", e).
			WithHint("its flags come after --: unproxy migrate go-mmproxy -- -l :2222 -4 127.0.0.1:22"))
	}
	return errors.Join(all...)
}
