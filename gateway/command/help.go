package command

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
)

const examples = `Examples:
  # SSH behind a load balancer at 10.0.0.0/8; sshd sees the gateway
  unproxy --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8

  # the same, and sshd sees the client: its logs, its ACLs, fail2ban
  unproxy --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent

  # several servers in one process, each with settings of its own
  unproxy --trust 10.0.0.0/8 \
    --forward ':25=mail.internal:25?require-checksum' \
    --forward ':21000-21010=10.1.0.7:21000-21010?idle-timeout=10m' \
    --forward '{{ GetPrivateIP }}:5432=unix:/run/postgresql/.s.PGSQL.5432?local=close'

  # from the environment; several values are parted by white space
  UNPROXY_FORWARD=':25=10.1.0.5:25 :143=10.1.0.5:143' UNPROXY_TRUST=10.0.0.0/8 unproxy
`

// rootHelp is the help of the program.
func rootHelp(commands []*cli.Command) string {
	var b strings.Builder
	b.WriteString(`unproxy takes PROXY protocol headers off connections from trusted load
balancers and forwards the payload to servers that know nothing of them.

Usage: unproxy [flags]            run the gateway
       unproxy COMMAND [flags]    do something else

Commands:
`)
	for _, c := range commands {
		if !c.Hidden {
			fmt.Fprintf(&b, "  %-12s%s\n", c.Name, c.Usage)
		}
	}
	b.WriteString("\n" + examples)
	writeForwardHelp(&b)
	writeFlags(&b)
	b.WriteString(`
Every flag has an environment variable: UNPROXY_ and its name in upper case, with
_ for -. A flag goes before its variable. D is a duration such as 500ms, 5s or 1h.
SIGTERM and SIGINT drain, a second one cuts what is left. SIGHUP reads the lists of addresses
anew, SIGUSR2 has a new process take over.
Exit codes: 0 well, 1 failed while running, 2 command line or configuration,
3 a look at this host found something missing.
`)
	return b.String()
}

// serveHelp is the help of the command serve.
func serveHelp() string {
	var b strings.Builder
	b.WriteString("unproxy serve - run the gateway; the same as unproxy without a command\n\nUsage: unproxy [serve] [flags]\n\n" + examples)
	writeForwardHelp(&b)
	writeFlags(&b)
	return b.String()
}

// checkHelp is the help of the command check.
func checkHelp() string {
	var b strings.Builder
	b.WriteString(`unproxy check - validate flags, variables and trust files; opens nothing

Usage: unproxy check [--strict] [flags of unproxy serve]

Prints what would be served. Exit code 2 if it would not be.

  --strict                        warnings are failures, too
`)
	writeFlags(&b)
	return b.String()
}

func writeForwardHelp(b *strings.Builder) {
	b.WriteString(`
A forward is [tcp://|udp://]LISTEN=BACKEND[,BACKEND...][?KEY[=VALUE]&...].
  LISTEN   HOST:PORT, :PORT, HOST:LOW-HIGH, unix:PATH, or systemd:NAME: a socket that
           systemd hands over by that name; HOST may be a template of go-sockaddr,
           such as {{ GetPrivateIP }} or {{ GetInterfaceIP "eth0" }}
  BACKEND  HOST:PORT, NAME:PORT, HOST:LOW-HIGH (port by port), unix:PATH, or header:
           the destination that the header names. Of several, the first that is of
           the client's family and reachable
  KEY      a flag of the groups Trust to Connections without its dashes, for this
           forward alone; it replaces the flag's value, and a list the whole list
`)
}

// writeFlags lists the flags of the gateway by subject.
func writeFlags(b *strings.Builder) {
	all := config.Settings()
	for i := range all {
		if i == 0 || all[i].Group != all[i-1].Group {
			fmt.Fprintf(b, "\n%s:\n", all[i].Group)
		}
		writeSetting(b, &all[i])
	}
}

// writeSetting writes the lines of one flag.
func writeSetting(b *strings.Builder, s *config.Setting) {
	left := "  --" + s.Name
	if s.Argument != "" {
		left += " " + s.Argument
	}
	usage.WriteRow(b, left, s.Usage())
}

// helpCommand is "unproxy help". The library's own ends with exit code 3 and
// cannot be given a command of a command.
func helpCommand() *cli.Command {
	return &cli.Command{
		Name:      "help",
		Aliases:   []string{"h"},
		Usage:     "print this, or the help of a command",
		ArgsUsage: "[COMMAND]",
		Action: func(ctx *cli.Context) error {
			if ctx.NArg() == 0 {
				return cli.ShowAppHelp(ctx)
			}
			commands := ctx.App.Commands
			var found *cli.Command
			for _, word := range ctx.Args().Slice() {
				found = nil
				for _, c := range commands {
					if c.HasName(word) {
						found = c
					}
				}
				if found == nil {
					return usage.UnknownCommand(word, "unproxy help", commands)
				}
				commands = found.Subcommands
			}
			cli.HelpPrinter(ctx.App.Writer, found.CustomHelpTemplate, found)
			return nil
		},
	}
}
