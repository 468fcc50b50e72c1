package routing

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// firstMatch returns the first rule, in order of preference, that is a candidate
// and matches the packet. It returns nil if there is none.
func (r Reply) firstMatch(rules []netlink.Rule, isCandidate func(*netlink.Rule) bool) *netlink.Rule {
	slices.SortStableFunc(rules, func(a, b netlink.Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	for i := range rules {
		if isCandidate(&rules[i]) && r.matches(&rules[i]) {
			return &rules[i]
		}
	}
	return nil
}

// matches reports whether a rule matches the packet (fib_rule_match,
// fib4_rule_match).
func (r Reply) matches(rule *netlink.Rule) bool {
	mask := uint32(math.MaxUint32)
	if rule.Mask != nil {
		mask = *rule.Mask
	}
	sport, dport := r.ports()
	all := (rule.Src == nil || readPrefix(rule.Src).Contains(r.From.Addr())) &&
		(rule.Dst == nil || readPrefix(rule.Dst).Contains(r.To.Addr())) &&
		(rule.IifName == "" || rule.IifName == r.Device) && rule.OifName == "" &&
		(rule.Mark == 0 && rule.Mask == nil || r.Mark&mask == rule.Mark) &&
		(rule.IPProto == 0 || rule.IPProto == int(r.protocol())) &&
		among(rule.Sport, sport) && among(rule.Dport, dport)
	return all != rule.Invert
}

// among reports whether a rule's range, which may be nil, contains a port.
func among(ports *netlink.RulePortRange, port uint16) bool {
	return ports == nil || ports.Start <= port && port <= ports.End
}

// ruleText returns a rule in the syntax of "ip rule list", limited to the
// selectors that matches evaluates.
func ruleText(r *netlink.Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.Priority)
	if r.Invert {
		b.WriteString(" not")
	}
	if r.Src == nil {
		b.WriteString(" from all")
	} else {
		b.WriteString(" from " + readPrefix(r.Src).String())
	}
	if r.Dst != nil {
		b.WriteString(" to " + readPrefix(r.Dst).String())
	}
	if r.Mark != 0 {
		fmt.Fprintf(&b, " fwmark %#x", r.Mark)
	}
	if r.IifName != "" {
		b.WriteString(" iif " + r.IifName)
	}
	if name, ok := protocolNames[byte(r.IPProto)]; ok {
		b.WriteString(" ipproto " + name)
	}
	if r.Sport != nil {
		fmt.Fprintf(&b, " sport %d-%d", r.Sport.Start, r.Sport.End)
	}
	if r.Table == 0 {
		return b.String() + " forbids it"
	}
	return b.String() + " lookup " + tableName(r.Table)
}

// tableName returns the name or the number of a routing table.
func tableName(table int) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return fmt.Sprint(table)
}
