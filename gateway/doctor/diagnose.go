package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// unanswered is a test client without an answer from a target that answers the
// gateway.
type unanswered struct {
	*target
	client netip.AddrPort
	// how describes the test, for the detail.
	how string
	// printCommand is the command that prints the script for the backend's host.
	printCommand string
}

// symptom returns the start of the detail.
func (u unanswered) symptom() string {
	return fmt.Sprintf("a client in %s is not answered%s", transparent.TestNetwork(u.client.Addr().Is6()), u.how)
}

// finding returns a failure whose detail starts with the symptom.
func (u unanswered) finding(c Code, format string, args ...any) Finding {
	return finding(c, u.name, Fail, "%s%s", u.symptom(), fmt.Sprintf(format, args...))
}

// diagnose finds out why a client is not answered. It returns at least one finding.
func (h Host) diagnose(ctx context.Context, plan returnpath.Plan, u unanswered) []Finding {
	part := plan.For(u.at.Addr())
	if part.Empty() {
		return []Finding{u.finding(RepliesLost, ", and this host's route to the backend is unknown").
			with("# see: unproxy routes print, with the same flags")}
	}
	missing, err := h.missing(ctx, part)
	hidden := errors.Is(err, fs.ErrPermission) // only root can read the packet filter
	switch {
	case err != nil && !hidden:
		return []Finding{u.finding(RepliesLost, ", and the rules in force cannot be read: %v", err).
			with(part.Commands()...)}
	case !missing.Replies().Empty():
		if hidden {
			missing.Filter = part.Filter
		}
		return []Finding{missingRules(u.name, part, missing, u.symptom())}
	}
	if f, found := h.misrouted(part, u); found {
		return []Finding{f}
	}
	const inForce = ", although every rule for it is in force"
	var f Finding
	switch where := reach(part, u.at.Addr()); {
	case hidden && part.Filter != nil:
		f = u.finding(RepliesLost, inForce+"; only root can see whether the packet filter marks its replies").
			with(part.Commands()...)
	case where.Place == returnpath.Routed:
		f = u.finding(BehindRouter, ": the backend is behind the router %s, and its replies do not pass this host",
			where.Router).with(u.backendHostHint()...)
	case where.Place == returnpath.Link:
		f = u.finding(RepliesLost, inForce+": its replies do not arrive on %s", where.Device).
			with(u.backendHostHint()...)
	default:
		f = u.finding(RepliesLost, inForce+": a firewall on this host may drop them").
			with("# find the rule that drops them: nft list ruleset", "# and allow connections to and from "+u.at.String())
	}
	return append([]Finding{f}, h.firewall(ctx, u)...)
}

// backendHostHint returns what to do on the backend's host.
func (u unanswered) backendHostHint() []string {
	ip, gateway := "ip", "GATEWAY"
	if u.at.Addr().Is6() {
		ip = "ip -6"
	}
	if a := u.plain.local.Addr(); a.IsValid() {
		gateway = a.String()
	}
	return []string{
		"# on the host of " + u.at.Addr().String() + ", route replies to clients through this host:",
		fmt.Sprintf("#   %s route replace default via %s", ip, gateway),
		"# or, only for connections of the gateway, which also works with several gateways:",
		fmt.Sprintf("#   %s | ssh root@%s sh", u.printCommand, u.at.Addr()),
		"# and keep that host from dropping packets of clients as spoofed: sysctl -w net.ipv4.conf.all.rp_filter=2",
	}
}

// misrouted looks up the route of a reply, and reports whether it differs from the
// plan.
func (h Host) misrouted(part returnpath.Plan, u unanswered) (Finding, bool) {
	where := reach(part, u.at.Addr())
	reply := routing.Reply{From: u.at, To: u.client, UDP: u.udp, Device: where.Device}
	mark := part.Rules[0].Mark
	if mark != 0 && where.Place == returnpath.Local {
		if _, err := h.LookupRoute(reply); errors.Is(err, unix.ENETUNREACH) {
			return u.finding(DefaultRoute, ": this host has no route to the client and drops replies before it can mark them").
				with("# any default route works: ip route add default via ROUTER", "# or do without marks: --recipe rules"), true
		}
	}
	reply.Mark = mark
	decision, err := h.LookupRoute(reply)
	switch {
	case errors.Is(err, routing.ErrReversePath):
		return u.finding(ReversePath,
			": rp_filter drops the replies that arrive on %s because this host reaches %s through another interface",
			where.Device, u.at.Addr()).with("sysctl -w " + returnpath.Sysctl(where.Device, "rp_filter") + "=2"), true
	case decision.Local && decision.Table == part.Routes[0].Table:
		return Finding{}, false
	case decision.Rule == "" || decision.Preference >= part.Rules[0].Preference:
		return Finding{}, false // no rule precedes those of the plan
	}
	return shadowed(part, u, decision, err), true
}

// shadowed returns the finding that another rule precedes those of the plan. err is
// the error of the lookup.
func shadowed(part returnpath.Plan, u unanswered, decision routing.Decision, err error) Finding {
	effect := "keeps them on this host"
	switch {
	case err != nil:
		effect = "drops them"
	case !decision.Local:
		effect = "sends them out on " + decision.Device
	}
	f := u.finding(RulesShadowed, ": the rules for its replies are in force, but an earlier one %s: %s",
		effect, decision.Rule)
	// 0 is the preference of the rule for table local, and also the default.
	if decision.Preference < 2 {
		return f.with(fmt.Sprintf("# move that rule behind preference %d", part.Rules[0].Preference))
	}
	before := decision.Preference - 1
	for _, r := range part.Rules {
		r.Preference = before
		f.Hint = append(f.Hint, r.String())
	}
	f.Hint = append(f.Hint, fmt.Sprintf("# and use --rule-preference %d from now on", before))
	return f
}

// suspicious are patterns of firewall rules that drop what transparent connections
// look like: packets from foreign addresses on loopback, and connections of which
// conntrack sees one direction only.
var suspicious = []string{
	"ct state invalid", "ct state { invalid", "fib saddr", "rpfilter", "iif != \"lo\"",
	transparent.TestNetwork(false).String(), transparent.TestNetwork(true).String(),
}

// maxFirewallRules is the number of firewall rules that a hint quotes.
const maxFirewallRules = 3

// firewall reports firewall rules of this host that may be the reason.
func (h Host) firewall(ctx context.Context, u unanswered) []Finding {
	text, err := h.Firewall(ctx)
	if errors.Is(err, fs.ErrPermission) {
		return []Finding{finding(Firewall, u.name, Skip, onlyRootReadsFilter)}
	}
	if err != nil {
		return nil // nft is not installed
	}
	var found []string
	for line := range strings.Lines(text) {
		if isSuspicious(line) {
			found = append(found, "# "+strings.Join(strings.Fields(line), " "))
		}
	}
	if len(found) == 0 {
		return nil
	}
	return []Finding{finding(Firewall, u.name, Warn, "%d rules may drop its packets", len(found)).
		with(found[:min(maxFirewallRules, len(found))]...)}
}

// isSuspicious reports whether a firewall rule may drop transparent connections.
func isSuspicious(rule string) bool {
	if !strings.Contains(rule, "drop") && !strings.Contains(rule, "reject") {
		return false
	}
	for _, pattern := range suspicious {
		if strings.Contains(rule, pattern) {
			return true
		}
	}
	return false
}
