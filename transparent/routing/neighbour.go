package routing

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Source returns the address of this host that it would use to talk to a, and the
// hardware address of the interface, or "" if the interface has none.
func Source(a netip.Addr) (source netip.Addr, mac string, err error) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return source, "", failed("ip route get "+a.String(), err)
	}
	source, _ = netip.AddrFromSlice(routes[0].Src)
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return source, "", failed("ip route get "+a.String(), err)
	}
	return source.Unmap(), link.Attrs().HardwareAddr.String(), nil
}

// HardwareAddress returns the hardware address of a, which is an address of this
// host or of a neighbour. It returns "" if the neighbour table has no entry.
func HardwareAddress(a netip.Addr) (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", failed("ip link", err)
	}
	for _, link := range links {
		if hasAddress(link, a) {
			return link.Attrs().HardwareAddr.String(), nil
		}
	}
	list, err := netlink.NeighList(0, family(a.Is6()))
	if err != nil {
		return "", failed("ip neighbour", err)
	}
	for _, n := range list {
		if n.IP.Equal(net.IP(a.AsSlice())) && len(n.HardwareAddr) > 0 {
			return n.HardwareAddr.String(), nil
		}
	}
	return "", nil
}
