package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/admin"
	"unproxy/gateway/ban"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/trust"
)

const (
	banHelp = `Bans a client, or a prefix of them, on all forwards of a running gateway: new
connections and UDP flows end with the outcome client_denied. Bans survive a reload and
an upgrade, and with --ban-file a restart. A second ban of the same prefix replaces the
first. Existing connections and flows continue without --cut.

Exit codes: 0 banned, 1 no answer, refused by the gateway, or not saved, 2 usage error,
which a prefix of all addresses is.

Examples:
  unproxy ban 203.0.113.9
  unproxy ban --for 1h --cut --reason "password guessing" 203.0.113.0/24
  unproxy ban 2001:db8:1:2::/64`
	unbanHelp = `Ends the ban of a client, or of a prefix of them.

Exit codes: 0 not banned, 1 no answer, not saved, or a wider ban still holds, 2 usage
error.

Example:
  unproxy unban 203.0.113.9`
	bansHelp = `Prints the bans of a running gateway.

Exit codes: 0 success, 1 no answer, 2 usage error.

Examples:
  unproxy bans
  unproxy bans --json | jq -r '.bans[].prefix'`
)

// banCommand returns "unproxy ban".
func banCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "ban", Usage: "ban a client while the gateway runs", ArgsUsage: "ADDRESS|PREFIX", Description: banHelp,
		Flags: append(g.pick(config.EnvFileFlag), adminFlag(g),
			&cli.StringFlag{Name: "for", Usage: "end the ban after `D` [never]"},
			&cli.BoolFlag{Name: "cut", Usage: "end the client's connections and UDP flows, too"},
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` to show beside the ban"}),
		Action: func(ctx *cli.Context) error { return runBan(ctx, g) },
	}
}

// unbanCommand returns "unproxy unban".
func unbanCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "unban", Usage: "end a ban", ArgsUsage: "ADDRESS|PREFIX", Description: unbanHelp,
		Flags:  append(g.pick(config.EnvFileFlag), adminFlag(g)),
		Action: func(ctx *cli.Context) error { return runUnban(ctx, g) },
	}
}

// bansCommand returns "unproxy bans".
func bansCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "bans", Usage: "list the bans", Description: bansHelp,
		Flags:  append(g.pick(config.EnvFileFlag), adminFlag(g), usage.JSONFlag()),
		Action: func(ctx *cli.Context) error { return runBans(ctx, g) },
	}
}

// runBan bans a client.
func runBan(ctx *cli.Context, g *given) error {
	prefix, err := bannedPrefix(ctx)
	if err != nil {
		return err
	}
	if err := checkWidth(prefix); err != nil {
		return err
	}
	r := admin.BanRequest{Prefix: prefix, Reason: ctx.String("reason"), Cut: ctx.Bool("cut")}
	if ctx.IsSet("for") {
		if r.For, err = value.Duration(ctx.String("for"), time.Millisecond, admin.LongestBan); err != nil {
			return config.FlagProblem("for", ctx.String("for"), err)
		}
		if r.For == 0 {
			return usage.Errorf("--for 0 would end the ban at once").WithHint("leave --for out for a ban without end")
		}
	}
	client, limited, cancel, err := banClient(ctx, g)
	if err != nil {
		return err
	}
	defer cancel()
	answer, err := client.Ban(limited, r)
	if err != nil {
		return fmt.Errorf("ban %s: %w", prefix, err)
	}
	text := "banned " + prefixText(answer.Prefix)
	if !answer.Until.IsZero() {
		text += " until " + answer.Until.Local().Format(time.RFC3339)
	}
	if r.Cut {
		text += ", ended " + value.Plural(answer.Cut, "connection")
	}
	_, err = fmt.Fprintln(ctx.App.Writer, text)
	return err
}

// runUnban ends a ban.
func runUnban(ctx *cli.Context, g *given) error {
	prefix, err := bannedPrefix(ctx)
	if err != nil {
		return err
	}
	client, limited, cancel, err := banClient(ctx, g)
	if err != nil {
		return err
	}
	defer cancel()
	answer, err := client.Unban(limited, prefix)
	if err != nil {
		return fmt.Errorf("unban %s: %w", prefix, err)
	}
	if len(answer.CoveredBy) > 0 {
		return fmt.Errorf("%s is still banned, by %s", prefix, strings.Join(answer.CoveredBy, ", "))
	}
	text := "unbanned " + prefix
	if !answer.Removed {
		text = prefix + " was not banned"
	}
	_, err = fmt.Fprintln(ctx.App.Writer, text)
	return err
}

// runBans lists the bans.
func runBans(ctx *cli.Context, g *given) error {
	client, limited, cancel, err := banClient(ctx, g)
	if err != nil {
		return err
	}
	defer cancel()
	all, err := client.Bans(limited)
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		return usage.PrintJSON(ctx.App.Writer, all)
	}
	if len(all.Bans) == 0 {
		_, err := fmt.Fprintln(ctx.App.Writer, "no bans")
		return err
	}
	return writeBans(ctx.App.Writer, all.Bans)
}

func writeBans(w io.Writer, all []admin.BanStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLIENT\tSINCE\tUNTIL\tREFUSED\tREASON")
	for _, b := range all {
		until := "unbanned"
		if !b.Until.IsZero() {
			until = b.Until.Local().Format(time.RFC3339)
		}
		since := b.Since.Local().Format(time.RFC3339)
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", prefixText(b.Prefix), since, until, b.Hits, value.OneLine(b.Reason))
	}
	return t.Flush()
}

// banClient returns a client of the admin endpoint, and the context of its request.
func banClient(ctx *cli.Context, g *given) (*admin.Client, context.Context, context.CancelFunc, error) {
	client, err := adminClient(g)
	if err != nil {
		return nil, nil, nil, err
	}
	limited, cancel := context.WithTimeout(ctx.Context, askTimeout)
	return client, limited, cancel, nil
}

// bannedPrefix returns the argument of ban and unban, as text. It is checked here, too, so
// that an error shows before anything is asked.
func bannedPrefix(ctx *cli.Context) (string, error) {
	text, err := argumentAnywhere(ctx, "address")
	if err != nil {
		return "", err
	}
	if text == "" {
		return "", usage.Errorf("no address").
			WithHint(fmt.Sprintf("write unproxy %s 203.0.113.9, or a prefix", ctx.Command.Name))
	}
	p, err := trust.ParsePrefix(text)
	if err != nil {
		return "", usage.Errorf("%v", err).WithHint(config.HintOf(err))
	}
	return value.Prefix(p), nil
}

// checkWidth refuses a ban of everything before the gateway is asked.
func checkWidth(prefix string) error {
	p, err := trust.ParsePrefix(prefix)
	if err == nil {
		err = ban.CheckWidth(p)
	}
	if err != nil {
		return usage.Errorf("%v", err).WithHint("stop the gateway to serve no client, or allow the clients to serve with --allow-client")
	}
	return nil
}

// prefixText returns a prefix of an answer as an operator writes it.
func prefixText(text string) string {
	if p, err := trust.ParsePrefix(text); err == nil {
		return value.Prefix(p)
	}
	return text
}

// argumentAnywhere is [usage.Argument] for a command whose flags may also follow the
// argument. The library stops at the first argument.
func argumentAnywhere(ctx *cli.Context, noun string) (string, error) {
	first, rest := ctx.Args().First(), ctx.Args().Tail()
	if len(rest) == 0 || !strings.HasPrefix(rest[0], "-") {
		return usage.Argument(ctx, noun)
	}
	set := flag.NewFlagSet(ctx.Command.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range ctx.Command.Flags {
		if err := f.Apply(set); err != nil {
			return "", err
		}
	}
	if err := set.Parse(rest); err != nil {
		return "", usage.Errorf("%v, after the %s", err, noun).WithHint("see unproxy " + ctx.Command.Name + " --help")
	}
	if set.NArg() > 0 {
		return "", usage.Errorf("more than one %s: %s %s", noun, first, strings.Join(set.Args(), " ")).WithHint("give one")
	}
	var errs []error
	set.Visit(func(f *flag.Flag) {
		if config.Find(f.Name) == nil { // those record their values themselves
			errs = append(errs, ctx.Set(f.Name, f.Value.String()))
		}
	})
	return first, errors.Join(errs...)
}
