package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
)

// unseen is appended to the detail of a test whose first packet was not seen.
func (h Host) unseen() string {
	const what = "; whether a rule rewrites its address cannot be seen: "
	if err := h.Sight(); err != nil {
		return fmt.Sprintf("%spacket sockets are not permitted here (%v); run unproxy doctor as root, in the "+
			"gateway's network namespace but outside its sandbox", what, err)
	}
	return what + "this host sends too many packets to find the test among them; run unproxy doctor again"
}

// exemptTable is the table of the rules that exempt the gateway's connections.
const exemptTable = "unproxy_source"

// maxRewritingRules is the number of rules that a hint quotes.
const maxRewritingRules = 3

// rewritten reports a rule of this host that rewrites the source of a client's
// connections to a target. sent is what [Host.Connect] returned.
func (h Host) rewritten(ctx context.Context, t *target, client, sent netip.AddrPort) (Finding, bool) {
	if !sent.IsValid() || sent.Addr() == client.Addr() {
		return Finding{}, false
	}
	f := finding(SourceRewritten, t.name, Fail,
		"a client is answered, but the backend sees %s: "+
			"a masquerade or SNAT rule of this host rewrites the client's address",
		sent.Addr())
	return f.with(append(h.rewritingRules(ctx, t.at.Addr()), exemptions(t)...)...), true
}

// exemptions returns the command that exempts the gateway's connections to a target
// from source NAT. A translation to the same address precedes that of later chains,
// also those of iptables, because NAT translates each connection once. The priority
// is lower than those in use; it must be above -200 (NF_IP_PRI_CONNTRACK).
func exemptions(t *target) []string {
	ip, iptables := "ip", "iptables"
	if t.at.Addr().Is6() {
		ip, iptables = "ip6", "ip6tables"
	}
	return []string{
		"# exempt the connections that this host makes from foreign addresses, and keep it in /etc/nftables.conf:",
		fmt.Sprintf("nft 'table inet %[4]s { chain postrouting { type nat hook postrouting priority -150; "+
			"meta skuid 0-4294967294 fib saddr type != local %[1]s daddr %[2]s tcp dport %[3]d snat %[1]s to %[1]s saddr; }; }'",
			ip, t.at.Addr(), t.at.Port(), exemptTable),
		fmt.Sprintf("# or without nft: %s -t nat -I POSTROUTING -d %s -p tcp --dport %d "+
			"-m addrtype ! --src-type LOCAL -j ACCEPT",
			iptables, t.at.Addr(), t.at.Port()),
	}
}

// rewritingRules quotes the packet filter's rules that may be the reason: those of
// the other address family and the exemptions of this host cannot be.
func (h Host) rewritingRules(ctx context.Context, backend netip.Addr) []string {
	other := "ip6"
	if backend.Is6() {
		other = "ip"
	}
	text, err := h.Firewall(ctx)
	if errors.Is(err, fs.ErrPermission) {
		return []string{"# only root can see which rule does: nft list ruleset, iptables -t nat -S"}
	}
	var found []string
	chain, ruledOut := "", false
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "table" && len(words) > 2:
			ruledOut = words[1] == other || words[2] == exemptTable
		case words[0] == "chain":
			chain = strings.Join(words[:len(words)-1], " ")
		case !ruledOut && isRewriting(words) && len(found) < maxRewritingRules:
			found = append(found, fmt.Sprintf("# a rule of %s: %s", chain, strings.Join(words, " ")))
		}
	}
	return found
}

// isRewriting reports whether a rule has source NAT. nft shows rules of iptables as
// comments, such as xt target "MASQUERADE".
func isRewriting(rule []string) bool {
	for _, word := range rule {
		switch strings.ToLower(strings.Trim(word, `"`)) {
		case "masquerade", "snat", "netmap":
			return true
		}
	}
	return false
}
