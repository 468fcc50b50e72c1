package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// lost is a client that was not answered, by a target that answers the gateway.
type lost struct {
	*target
	client netip.AddrPort
	how    string // the test was made, for the finding's detail
	// printing is the command that prints what the backend's host needs.
	printing string
}

// what returns what was seen, in a sentence.
func (l lost) what() string {
	return fmt.Sprintf("a client of %s is not answered%s", network(l.client), l.how)
}

// network returns the documentation's network that a client is of.
func network(client netip.AddrPort) string {
	if client.Addr().Is4() {
		return "192.0.2.0/24"
	}
	return "2001:db8::/32"
}

// diagnose finds out why a client is not answered.
func (h Host) diagnose(ctx context.Context, plan returnpath.Plan, l lost) []Finding {
	part := plan.For(l.at.Addr())
	if part.Empty() {
		return []Finding{finding(RepliesLost, l.name, Fail, "%s, and how this host reaches it cannot be found out", l.what()).
			with("# see: unproxy routes print, with the same flags")}
	}
	missing, err := h.Missing(ctx, part)
	hidden := errors.Is(err, fs.ErrPermission) // the packet filter shows itself to root alone
	switch {
	case err != nil && !hidden:
		return []Finding{finding(RepliesLost, l.name, Fail, "%s, and what is in force cannot be looked at: %v", l.what(), err).with(part.Commands()...)}
	case !missing.Empty():
		if hidden {
			missing.Filter = part.Filter
		}
		return []Finding{lacking(l.name, part, missing, l.what())}
	}
	if f, found := h.misled(part, l); found {
		return []Finding{f}
	}
	where := reach(part, l.at.Addr())
	f := finding(RepliesLost, l.name, Fail, "%s, although every rule for it is in force", l.what())
	switch {
	case hidden && part.Filter != nil:
		f.Detail += "; whether the packet filter marks its replies, only root can see"
		f.Action = part.Commands()
	case where.Place == returnpath.Routed:
		f = finding(BehindRouter, l.name, Fail, "%s: it is behind the router %s, and its replies do not come by this host", l.what(), where.Router)
		f.Action = l.elsewhere()
	case where.Place == returnpath.Link:
		f.Detail += ": its replies do not come to " + where.Device
		f.Action = l.elsewhere()
	default:
		f.Detail += ": a firewall on this host may drop them"
		f.Action = []string{"# look for what drops them: nft list ruleset", "# and let connections to and from " + l.at.String() + " pass"}
	}
	return append([]Finding{f}, h.firewall(ctx, l)...)
}

// elsewhere says what the host of the backend must do.
func (l lost) elsewhere() []string {
	ip, gateway := "ip", "GATEWAY"
	if l.at.Addr().Is6() {
		ip = "ip -6"
	}
	if a := l.plain.local.Addr(); a.IsValid() {
		gateway = a.String()
	}
	return []string{
		"# on the host of " + l.at.Addr().String() + ", replies to clients must leave by way of this host:",
		fmt.Sprintf("#   %s route replace default via %s", ip, gateway),
		"# or, for the gateway's connections alone and from several gateways:",
		fmt.Sprintf("#   %s | ssh root@%s sh", l.printing, l.at.Addr()),
		"# and it must not drop them as spoofed: there, sysctl -w net.ipv4.conf.all.rp_filter=2",
	}
}

// misled asks the kernel what becomes of a reply, and tells if that is not what
// the plan has in mind.
func (h Host) misled(part returnpath.Plan, l lost) (Finding, bool) {
	where := reach(part, l.at.Addr())
	reply := routing.Reply{From: l.at, To: l.client, UDP: l.udp, Device: where.Device}
	mark := part.Rules[0].Mark
	if mark != 0 && where.Place == returnpath.Local {
		if _, err := h.Way(reply); errors.Is(err, unix.ENETUNREACH) {
			return finding(DefaultRoute, l.name, Fail, "%s: this host has no route to it, and drops replies before they can be marked", l.what()).
				with("# any default route will do: ip route add default via ROUTER", "# or do without marks: --recipe rules"), true
		}
	}
	reply.Mark = mark
	way, err := h.Way(reply)
	switch {
	case errors.Is(err, routing.ErrReversePath):
		return finding(ReversePath, l.name, Fail, "%s: rp_filter drops the replies that come in by %s, since this host would send to %s by another interface", l.what(), where.Device, l.at.Addr()).
			with("sysctl -w net.ipv4.conf." + where.Device + ".rp_filter=2"), true
	case way.Local && way.Table == part.Routes[0].Table:
		return Finding{}, false
	case way.Rule == "" || way.Preference >= part.Rules[0].Preference:
		return Finding{}, false // nothing comes before them
	}
	return shadowed(part, l, way, err), true
}

// shadowed is the finding that another rule comes before the plan's.
func shadowed(part returnpath.Plan, l lost, way routing.Decision, err error) Finding {
	leads := "keeps them on this host"
	switch {
	case err != nil:
		leads = "lets them go nowhere"
	case !way.Local:
		leads = "sends them out by " + way.Device
	}
	f := finding(RulesShadowed, l.name, Fail, "%s: the rules for it are in force, but an earlier one %s: %s", l.what(), leads, way.Rule)
	if way.Preference < 2 {
		return f.with("# that rule must come after preference " + fmt.Sprint(part.Rules[0].Preference))
	}
	before := way.Preference - 1
	for _, r := range part.Rules {
		r.Preference = before
		f.Action = append(f.Action, r.String())
	}
	f.Action = append(f.Action, fmt.Sprintf("# from now on: --rule-preference %d", before))
	return f
}

// suspicious are words of firewall rules that drop what transparent connections
// look like: packets from foreign addresses on loopback, and connections of
// which conntrack saw one direction only.
var suspicious = []string{"ct state invalid", "fib saddr", "rpfilter", "192.0.2.0/24", "2001:db8::/32", "iif != \"lo\"", "ct state { invalid"}

// firewall hints at rules of this host's that may be the reason.
func (h Host) firewall(ctx context.Context, l lost) []Finding {
	text, err := h.Firewall(ctx)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return []Finding{finding(Firewall, l.name, Skip, "the firewall's rules show themselves to root alone")}
		}
		return nil // without nft there is nothing to read
	}
	var found []string
	for line := range strings.Lines(text) {
		drops := strings.Contains(line, "drop") || strings.Contains(line, "reject")
		for _, word := range suspicious {
			if drops && strings.Contains(line, word) {
				found = append(found, "# "+oneLine(line))
				break
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return []Finding{finding(Firewall, l.name, Warn, "%d rules may drop its packets", len(found)).
		with(found[:min(3, len(found))]...)}
}
