package command

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/gateway/doctor"
	"unproxy/gateway/forward"
	"unproxy/gateway/source"
	"unproxy/transparent"
)

const checkUsage = "validate the configuration; opens no socket"

// checkCommand returns "unproxy check".
func checkCommand(g *given) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: checkUsage, CustomHelpTemplate: usage.Verbatim, Description: checkHelp(),
		Flags:  append(g.flags(), &cli.BoolFlag{Name: "strict"}),
		Action: func(ctx *cli.Context) error { return runCheck(ctx, g) },
	}
}

// checkHelp returns the help of the command check.
func checkHelp() string {
	var b strings.Builder
	b.WriteString("unproxy check - " + checkUsage + `

Usage: unproxy check [--strict] [flags of unproxy serve]

Validates flags, environment variables and the files that they name, and prints
what would be served, and HAProxy's lines for it. Their health checks fail if the
backend does not answer.

Exit codes: 0 valid, 2 invalid, or valid with warnings and --strict. The warning that
servers on this host see every client as localhost is not an error with --strict.

Examples:
  unproxy check --forward :2222=127.0.0.1:22 --trust 10.0.0.0/8

  # from the environment, with warnings as errors
  UNPROXY_FORWARD=:2222=127.0.0.1:22 UNPROXY_TRUST=10.0.0.0/8 unproxy check --strict

`)
	usage.WriteRow(&b, "  --strict", "treat warnings as errors")
	writeFlags(&b)
	return b.String()
}

// runCheck validates the configuration and prints a summary.
func runCheck(ctx *cli.Context, g *given) error {
	c, err := configure(g, 0)
	for _, w := range c.warnings {
		fmt.Fprintf(messages(ctx.App.ErrWriter), "unproxy: warning: %s\n", value.OneLine(w.String()))
	}
	if err != nil {
		return err
	}
	config := c.gateway
	for _, f := range config.Forwards {
		summarize(ctx.App.Writer, f)
	}
	for kind, at := range c.admin.Endpoints() {
		fmt.Fprintf(ctx.App.Writer, "%s on %s\n", kind, at)
	}
	fmt.Fprintf(ctx.App.Writer, "%s, %s\n", loops(config), limits(config))
	if a := doctor.This().PortAdvice(config.Forwards, localNames); a.Detail != "" {
		fmt.Fprintf(ctx.App.ErrWriter, "unproxy: hint: %s; reserve them: %s\n", value.OneLine(a.Detail), a.Command)
	}
	if n := faults(c.warnings); ctx.Bool("strict") && n > 0 {
		return usage.Errorf("%s, which --strict treats as errors", value.Plural(n, "warning"))
	}
	writeHAProxy(ctx.App.Writer, config.Forwards, c.admin.Health)
	forwards, warnings := value.Plural(len(config.Forwards), "forward"), value.Plural(len(c.warnings), "warning")
	fmt.Fprintf(ctx.App.Writer, "ok: %s, %s\n", forwards, warnings)
	return nil
}

// localNames resolves localhost to loopback addresses. It does not resolve other names.
func localNames(host string) []netip.Addr {
	if host == "localhost" {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return nil
}

// faults returns the number of warnings that --strict treats as errors. It does not
// count AboutLocalhost: backends on this host are common in plain mode, and only the
// operator knows whether they grant privileges to localhost.
func faults(all []config.Warning) int {
	n := 0
	for _, w := range all {
		if w.About != config.AboutLocalhost {
			n++
		}
	}
	return n
}

// summarize prints the settings of a forward.
func summarize(w io.Writer, f *forward.Forward) {
	first, last := f.Listeners[0], f.Listeners[len(f.Listeners)-1]
	fmt.Fprintf(w, "%s -> %s\n", span(first.Name, last.Name, len(f.Listeners)), first.BackendText())
	if len(f.Listeners) > 1 {
		fmt.Fprintf(w, "  last port     %s -> %s\n", last.Name, last.BackendText())
	}
	row := func(name, value string) { fmt.Fprintf(w, "  %-13s %s\n", name, value) }
	peerRows(row, f)
	clientRows(row, f)
	row("header", headers(f))
	row("transparent", transparency(f))
	if len(f.SourceAddresses) > 0 {
		row("source", sources(f))
	}
	if f.TProxy {
		row("tproxy", redirects(f))
	}
	row("time limits", timeLimits(f))
	most, thing := f.MaxConnections, "connection"
	if f.Datagrams {
		most, thing = f.MaxFlows, "flow"
	}
	if most > 0 {
		row("limit", value.Plural(most, thing))
	}
	if f.MaxConnectionsPerClient > 0 {
		row("per client", value.Plural(f.MaxConnectionsPerClient, thing))
	}
	if r := f.AcceptRate; r.PerSecond > 0 {
		row("per peer", fmt.Sprintf("%s a second, %d at once", value.Plural(r.PerSecond, "connection"), r.Burst))
	}
}

// loops describes the event loops.
func loops(c *config.Config) string {
	if c.Spin == 0 {
		return value.Plural(c.Loops, "loop")
	}
	return fmt.Sprintf("%s, spinning for %v", value.Plural(c.Loops, "loop"), c.Spin)
}

// limits describes the limits of all forwards together.
func limits(c *config.Config) string {
	streams := slices.ContainsFunc(c.Forwards, func(f *forward.Forward) bool { return !f.Datagrams })
	datagrams := slices.ContainsFunc(c.Forwards, func(f *forward.Forward) bool { return f.Datagrams })
	var parts []string
	if streams && c.MaxConnections > 0 {
		parts = append(parts, fmt.Sprintf("%d connections", c.MaxConnections))
	}
	if streams && c.MaxWaiting > 0 {
		parts = append(parts, fmt.Sprintf("%d of them waiting for a header", c.MaxWaiting))
	}
	if datagrams && c.MaxFlows > 0 {
		parts = append(parts, fmt.Sprintf("%d UDP flows", c.MaxFlows))
	}
	if len(parts) == 0 {
		return "no limit on connections"
	}
	return "at most " + strings.Join(parts, ", ")
}

// timeLimits describes the timeouts of a forward.
func timeLimits(f *forward.Forward) string {
	if f.Datagrams {
		return "idle " + f.FlowTimeout.String()
	}
	return fmt.Sprintf("header %s, connect %s, idle %s",
		orOff(f.HeaderTimeout), orOff(f.ConnectTimeout), orOff(f.IdleTimeout))
}

// span formats a range of n ports.
func span(first, last string, n int) string {
	if n == 1 {
		return first
	}
	return fmt.Sprintf("%s to %s (%d ports)", first, last, n)
}

// headers describes which headers are accepted.
func headers(f *forward.Forward) string {
	if f.Datagrams && f.DatagramHeader == forward.SimpleProxy {
		return "Simple Proxy Protocol, in every datagram and before each reply"
	}
	var parts []string
	if !f.Header.RefuseV1 && !f.Datagrams && !f.Header.RequireChecksum {
		parts = append(parts, "v1")
	}
	if !f.Header.RefuseV2 {
		parts = append(parts, fmt.Sprintf("v2 to %d bytes", f.Header.MaxLength))
	}
	if f.Header.RequireChecksum {
		parts = append(parts, "checksum required")
	}
	if f.Headers > 1 {
		parts = append(parts, fmt.Sprintf("%d stacked", f.Headers))
	}
	if f.Datagrams {
		first := f.DatagramHeader == forward.FirstDatagram
		parts = append(parts, "in "+either(first, "the first datagram of a flow", "every datagram"))
	}
	local := either(f.CloseLocal, either(f.Datagrams, "dropped", "closed"), "relayed")
	unknown := either(f.RejectUnknown, "rejected", "relayed")
	return fmt.Sprintf("%s; LOCAL %s, unknown %s", strings.Join(parts, ", "), local, unknown)
}

// transparency describes which address the backend sees.
func transparency(f *forward.Forward) string {
	switch {
	case !f.Transparent:
		return "off: the backend sees the gateway's address"
	case f.TOA.On:
		return fmt.Sprintf("toa: the backend sees the client's address, from a TCP option; format %s, family mismatch %s",
			f.TOA.Format, f.Source.FamilyMismatch)
	}
	mismatch := f.Source.FamilyMismatch.String()
	if p := f.Source.MapPrefix; f.Source.FamilyMismatch == transparent.Map {
		mismatch += " behind " + p.String()
	}
	return fmt.Sprintf("on: the backend sees the client's address; source port %s, family mismatch %s",
		f.Source.SourcePort, mismatch)
}

// sources describes the addresses that the backend sees in plain mode.
func sources(f *forward.Forward) string {
	texts := make([]string, len(f.SourceAddresses))
	for i, p := range f.SourceAddresses {
		texts[i] = value.Prefix(p)
	}
	n := source.Count(f.SourceAddresses, source.MaxAddresses)
	if n == 1 {
		return texts[0]
	}
	return fmt.Sprintf("%s (%d addresses, in turn)", strings.Join(texts, ", "), n)
}

// redirects describes which connections to other addresses the listener accepts.
func redirects(f *forward.Forward) string {
	if len(f.Redirect) == 0 {
		return "on: accepts every connection that the packet filter redirects"
	}
	texts := make([]string, len(f.Redirect))
	for i, r := range f.Redirect {
		texts[i] = r.String()
	}
	return "on: accepts connections redirected from " + strings.Join(texts, ", ")
}

// either returns yes if the condition is true, else no.
func either(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}

// orOff formats a time limit; 0 is off.
func orOff(d time.Duration) string {
	if d == 0 {
		return "off"
	}
	return d.String()
}
