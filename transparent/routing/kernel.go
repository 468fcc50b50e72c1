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

func readPrefix(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
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
