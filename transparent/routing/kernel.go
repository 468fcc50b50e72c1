package routing

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
)

// families are the values of v6 in loops over both address families.
var families = [...]bool{false, true}

// rulesOf returns the host's rules of one family, as far as a plan can express
// them. A host that does not support the family has none.
func rulesOf(v6 bool) ([]returnpath.Rule, error) {
	list, err := netlink.RuleList(family(v6))
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("ip rule", err)
	}
	all := make([]returnpath.Rule, len(list))
	for i := range list {
		all[i] = readRule(&list[i], v6)
	}
	return all, nil
}

// hostRules returns the host's rules of both families. With an error it returns
// those of the other family.
func hostRules() (all []returnpath.Rule, err error) {
	for _, v6 := range families {
		present, listErr := rulesOf(v6)
		all, err = append(all, present...), errors.Join(err, listErr)
	}
	return all, err
}

// readRule converts a rule of the kernel to that of a plan.
func readRule(r *netlink.Rule, v6 bool) returnpath.Rule {
	rule := returnpath.Rule{
		IPv6: v6, In: r.IifName, Mark: r.Mark,
		Table: uint32(r.Table), Preference: uint32(max(0, r.Priority)),
	}
	if r.Src != nil {
		rule.From = readPrefix(r.Src)
	}
	switch r.IPProto {
	case unix.IPPROTO_TCP:
		rule.Protocol = "tcp"
	case unix.IPPROTO_UDP:
		rule.Protocol = "udp"
	}
	if r.Sport != nil {
		rule.Ports = returnpath.Ports{Low: r.Sport.Start, High: r.Sport.End}
	}
	return rule
}

func readPrefix(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

// normalize returns a rule as the kernel reports it: without ports instead of all
// ports.
func normalize(r returnpath.Rule) returnpath.Rule {
	if r.Ports == returnpath.AllPorts {
		r.Ports = returnpath.Ports{}
	}
	return r
}

// writeRule converts a rule of a plan to that of the kernel.
func writeRule(r returnpath.Rule) *netlink.Rule {
	r = normalize(r)
	rule := netlink.NewRule()
	rule.Family = family(r.IPv6)
	if r.From.IsValid() {
		rule.Src = &net.IPNet{IP: r.From.Addr().AsSlice(), Mask: net.CIDRMask(r.From.Bits(), r.From.Addr().BitLen())}
	}
	switch r.Protocol {
	case "tcp":
		rule.IPProto = unix.IPPROTO_TCP
	case "udp":
		rule.IPProto = unix.IPPROTO_UDP
	}
	if r.Ports != (returnpath.Ports{}) {
		rule.Sport = netlink.NewRulePortRange(r.Ports.Low, r.Ports.High)
	}
	rule.IifName, rule.Mark = r.In, r.Mark
	rule.Table, rule.Priority = int(r.Table), int(r.Preference)
	return rule
}

// hasRoute reports whether a route is in force.
func hasRoute(r returnpath.Route) (bool, error) {
	filter := &netlink.Route{Table: int(r.Table), Type: unix.RTN_LOCAL}
	list, err := netlink.RouteListFiltered(family(r.IPv6), filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, failed("ip route show table", err)
	}
	for _, route := range list {
		// For a family that it does not support, the kernel lists the routes of
		// the others (rtnl_dump_all).
		if route.Family != family(r.IPv6) {
			continue
		}
		if route.Dst == nil || readPrefix(route.Dst).Bits() == 0 {
			return true, nil
		}
	}
	return false, nil
}

// writeRoute converts a route of a plan to that of the kernel.
func writeRoute(r returnpath.Route) (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 8*net.IPv4len)}
	if r.IPv6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 8*net.IPv6len)}
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       all,
		Table:     int(r.Table),
		Type:      unix.RTN_LOCAL,
		Scope:     netlink.SCOPE_HOST,
	}, nil
}

func addRoute(r returnpath.Route) error {
	route, err := writeRoute(r)
	if err == nil {
		err = netlink.RouteReplace(route)
	}
	return failed(r.String(), err)
}

func family(v6 bool) int {
	if v6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// LoopbackUp brings up lo, which is down in a new network namespace. It needs
// CAP_NET_ADMIN, and has no effect if lo is up.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	return failed("ip link set lo up", err)
}
