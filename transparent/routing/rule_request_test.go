package routing

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
)

// The kernel's rule of a request is the plan's rule. The protocol is one byte: for four,
// which netlink.RuleAdd sends, the kernel logs "attribute type 22 has an invalid length".
func TestRuleRequest(t *testing.T) {
	ssh := returnpath.Rule{From: netip.MustParsePrefix("192.0.2.1/32"), In: "lo", Protocol: "tcp",
		Ports: returnpath.Ports{Low: 22, High: 23}, Table: 7700, Preference: 7700}
	all := ssh
	all.Ports, all.Owner = returnpath.AllPorts, 100
	v6 := ssh
	v6.IPv6, v6.From, v6.Protocol, v6.Table = true, netip.MustParsePrefix("2001:db8::/64"), "udp", 99
	unreachable := ssh
	unreachable.Protocol, unreachable.Type, unreachable.Ports = "icmp", 3, returnpath.Ports{}
	for _, want := range []returnpath.Rule{ssh, all, v6, unreachable} {
		for _, command := range []int{unix.RTM_NEWRULE, unix.RTM_DELRULE} {
			message := ruleRequest(want, command, 0).Serialize()[unix.SizeofNlMsghdr:]
			got, err := parseRule(message)
			got.other = got.other && command == unix.RTM_NEWRULE // only a new rule has an action
			if err != nil || !got.is(want) || got.owner != want.Owner {
				t.Errorf("%v: %+v, %v", want, got, err)
			}
			if n := len(got.attributes[unix.FRA_IP_PROTO]); n != 1 {
				t.Errorf("%v: the protocol has %d bytes", want, n)
			}
		}
	}
}
