package command

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
)

const examples = `Examples:
  # SSH behind a load balancer in 10.0.0.0/8; sshd sees the gateway's address
  unproxy --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8

  # the same, but sshd sees the client's address, and so do its log, its ACLs and fail2ban
  unproxy --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8 --transparent

  # several servers in one process, each with its own settings
  unproxy --trust 10.0.0.0/8 \
    --forward ':25=mail.internal:25?accept=v2&require-checksum' \
    --forward ':21000-21010=10.1.0.7:21000-21010?idle-timeout=10m' \
    --forward '{{ GetPrivateIP }}:5432=unix:/run/postgresql/.s.PGSQL.5432?local=close'

  # from the environment; white space separates values
  UNPROXY_FORWARD=':25=10.1.0.5:25 :143=10.1.0.5:143' UNPROXY_TRUST=10.0.0.0/8 unproxy
`

// rootHelp returns the help of the program.
func rootHelp(commands []*cli.Command) string {
	var b strings.Builder
	b.WriteString(`unproxy sits between a load balancer that speaks the PROXY protocol and a server
that does not: it validates and strips the header, then forwards the plain stream.

Usage: unproxy [flags]            run the gateway
       unproxy COMMAND [flags]    run another command

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
Every flag has an environment variable: UNPROXY_ and the flag in upper case, with _
for -. A flag overrides its variable. D is a duration such as 500ms, 5s or 1h.

SIGTERM and SIGINT drain connections, a second signal closes the remaining ones.
SIGHUP reloads the address lists. SIGUSR2 hands over to a new process.

Exit codes: 0 success, 1 runtime failure, 2 usage or configuration error, 3 host
check failed.
`)
	return b.String()
}

// serveHelp returns the help of the command serve.
func serveHelp() string {
	var b strings.Builder
	b.WriteString("unproxy serve - run the gateway; the same as unproxy without a command\n\n" +
		"Usage: unproxy [serve] [flags]\n\n" + examples)
	writeForwardHelp(&b)
	writeFlags(&b)
	return b.String()
}

func writeForwardHelp(b *strings.Builder) {
	b.WriteString(`
A forward is [tcp://|udp://]LISTEN=BACKEND[,BACKEND...][?KEY[=VALUE]&...].
  LISTEN   HOST:PORT, :PORT, HOST:LOW-HIGH, unix:PATH, or systemd:NAME for a socket
           that systemd passes under that name. HOST may be a go-sockaddr template,
           such as {{ GetPrivateIP }} or {{ GetInterfaceIP "eth0" }}
  BACKEND  HOST:PORT, NAME:PORT, HOST:LOW-HIGH (port by port), unix:PATH, or header
           for the destination that the header names. With several, the first
           reachable one of the client's address family is used
  KEY      a flag of the groups Trust to Connections without its dashes, for this
           forward alone; it replaces the flag's value, and a list the whole list
`)
}

// writeFlags lists the flags of the gateway by group.
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

// helpCommand returns "unproxy help". That of the library exits with code 3 on an error
// and does not accept subcommands.
func helpCommand() *cli.Command {
	return &cli.Command{
		Name:        "help",
		Aliases:     []string{"h"},
		Usage:       "print this help, or that of a command",
		ArgsUsage:   "[COMMAND]...",
		Description: "Example:\n  unproxy help trust explain",
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
