// Package toa is "unproxy toa": it attaches the BPF programs that carry a client's
// address in a TCP option, shows what is attached, and takes it away. The programs and
// everything that touches the kernel are in transparent/toa/attach; this package has the
// words.
package toa

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config/value"
	"unproxy/transparent/toa/attach"
)

const (
	description = `With --transparent toa the gateway connects from its own address and sends the
client's in a TCP option. Programs on the backend's host make accept(2) and
getpeername(2) of the unchanged server return it; programs on the gateway's host write
the option. These commands attach both. docs/toa.md has the set-up.

Example:
  unproxy toa attach --from 10.0.0.5 --port 22`

	attachDescription = `On the backend's host: servers on the ports see the clients of the gateways. A
connection from a gateway to one of the ports must carry a client, or it is refused:
list addresses that only gateways use. Without --cgroup every server of the host is
covered, in containers too. The command can be repeated: the lists of the last one
count, programs are replaced in place, and connections keep their clients. Listeners
that exist already are covered on Linux 6.12 and later; on older kernels, restart
their servers.

On the gateway's host, with --gateway: processes in the cgroup can send a client's
address. Attach to the gateway's own cgroup.

Examples:
  unproxy toa attach --from 10.0.0.5 --from fd00::5 --port 22 --port 25
  unproxy toa attach --gateway --cgroup system.slice/unproxy.service

  # in a unit of systemd, before the gateway starts
  ExecStartPre=+/usr/bin/unproxy toa attach --gateway --cgroup self`

	detachDescription = `Takes away everything that attach has added. Connections that were accepted show the
gateway's address from then on; new ones are not promised, so the gateway refuses
them. It succeeds if nothing is attached.

Examples:
  unproxy toa detach
  unproxy toa detach --gateway --cgroup system.slice/unproxy.service`

	statusDescription = `Lists what is attached to which cgroup, the gateways and ports, and counters since the
first attach.

Example:
  unproxy toa status --json`

	checkDescription = `Loads the programs and attaches them for a moment, with empty lists, unless they are
attached. Nothing stays.

Exit codes: 0 success, 2 usage error, 3 something is missing.

Examples:
  unproxy toa check
  unproxy toa check --gateway --cgroup system.slice/unproxy.service`
)

// Command returns "unproxy toa".
func Command() *cli.Command {
	gateway := func() cli.Flag {
		return &cli.BoolFlag{Name: "gateway", Usage: "the programs of the gateway's host, not those of the backend's"}
	}
	cgroup := func() cli.Flag {
		return &cli.StringFlag{Name: "cgroup",
			Usage: "the cgroup `NAME`: a directory, a path below the root such as system.slice/ssh.service, or self"}
	}
	return &cli.Command{
		Name: "toa", Usage: "attach the programs that carry clients' addresses in a TCP option", Description: description,
		Subcommands: []*cli.Command{{
			Name: "attach", Usage: "attach or update the programs", Description: attachDescription,
			Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "from", Usage: "a gateway's `ADDRESS` or prefix, as this host sees it; repeatable"},
				&cli.StringSliceFlag{Name: "port", Usage: "the port `N` of servers that see the clients; repeatable"},
				cgroup(), gateway(),
				&cli.BoolFlag{Name: "legacy", Usage: "also take the options of TOA kernel modules, which have no negotiation"},
			},
			Action: runAttach,
		}, {
			Name: "detach", Usage: "take the programs away", Description: detachDescription,
			Flags: []cli.Flag{cgroup(), gateway()}, Action: runDetach,
		}, {
			Name: "status", Usage: "show what is attached", Description: statusDescription,
			Flags: []cli.Flag{cgroup(), usage.JSONFlag()}, Action: runStatus,
		}, {
			Name: "check", Usage: "check whether this host can attach them", Description: checkDescription,
			Flags: []cli.Flag{cgroup(), gateway()}, Action: runCheck,
		}},
	}
}

// roleOf returns the role that the flags select.
func roleOf(ctx *cli.Context) attach.Role {
	if ctx.Bool("gateway") {
		return attach.Gateway
	}
	return attach.Server
}

// cgroupOf returns the directory of the cgroup that the flags select. The gateway's role
// has no default: its programs belong on the gateway's cgroup alone.
func cgroupOf(ctx *cli.Context) (string, error) {
	name := ctx.String("cgroup")
	if name == "" && (ctx.IsSet("cgroup") || ctx.Bool("gateway")) {
		return "", usage.Errorf("--gateway needs --cgroup, the gateway's cgroup").
			WithHint("for the service of the package: --cgroup system.slice/unproxy.service")
	}
	return attach.Resolve(name)
}

// warn prints a warning.
func warn(ctx *cli.Context, format string, args ...any) {
	fmt.Fprintf(ctx.App.ErrWriter, "unproxy: warning: %s\n", value.OneLine(fmt.Sprintf(format, args...)))
}

// printf writes to w and ignores errors, as for all output of a command but JSON.
func printf(w io.Writer, format string, args ...any) { fmt.Fprintf(w, format, args...) }
