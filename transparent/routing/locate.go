package routing

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
)

// LocatePrefix returns the different ways in which this host reaches the addresses
// of a prefix. A single address has one; a prefix that spans interfaces has
// several. For a prefix it samples the first address, the host's own addresses in
// it, and an address of each network in it to which the host has a route. The
// result has at least one element; its place is Unknown if there is no route.
func LocatePrefix(prefix netip.Prefix) ([]returnpath.Reach, error) {
	prefix = prefix.Masked()
	addresses := []netip.Addr{prefix.Addr()}
	if !prefix.IsSingleIP() {
		addresses[0] = prefix.Addr().Next() // the first one is the address of the network
		more, err := addressesIn(prefix)
		if err != nil {
			return nil, err
		}
		addresses = append(more, addresses...)
	}
	var all []returnpath.Reach
	for _, a := range addresses {
		r, err := reach(a)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	known := slices.DeleteFunc(slices.Clone(all), func(r returnpath.Reach) bool { return r.Place == returnpath.Unknown })
	if len(known) > 0 {
		return known, nil
	}
	return all[:1], nil
}

// Locate returns the backends with their Reach set. A prefix that spans interfaces
// becomes several backends. Each prefix is located once, however many ports it
// has.
func Locate(backends []returnpath.Backend) ([]returnpath.Backend, error) {
	known := map[netip.Prefix][]returnpath.Reach{}
	var all []returnpath.Backend
	for _, b := range backends {
		reaches, ok := known[b.Addr]
		if !ok {
			found, err := LocatePrefix(b.Addr)
			if err != nil {
				return nil, err
			}
			reaches, known[b.Addr] = found, found
		}
		for _, r := range reaches {
			b.Reach = r
			all = append(all, b)
		}
	}
	return all, nil
}

// addressesIn returns the host's own addresses in a prefix, and an address of each
// network in it to which table main has a route.
func addressesIn(prefix netip.Prefix) ([]netip.Addr, error) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var all []netip.Addr
	for _, a := range own {
		if n, err := netip.ParsePrefix(a.String()); err == nil && prefix.Contains(n.Addr()) {
			all = append(all, n.Addr())
		}
	}
	routes, err := netlink.RouteList(nil, family(prefix.Addr().Is6()))
	if err != nil {
		return nil, failed("ip route", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue // the default route
		}
		if n := readPrefix(r.Dst); n.Bits() >= prefix.Bits() && prefix.Contains(n.Addr()) {
			all = append(all, foreignAddress(n, all))
		}
	}
	return all, nil
}

// foreignAddress returns an address of a network that is not the host's own.
func foreignAddress(network netip.Prefix, own []netip.Addr) netip.Addr {
	if network.IsSingleIP() {
		return network.Addr()
	}
	first := network.Masked().Addr().Next()
	if slices.Contains(own, first) {
		return first.Next()
	}
	return first
}

// reach looks up the route to one address.
func reach(a netip.Addr) (returnpath.Reach, error) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return returnpath.Reach{}, nil // no route: the place is Unknown
	}
	route := routes[0]
	if route.Type == unix.RTN_LOCAL {
		return reachOwn(a)
	}
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return returnpath.Reach{}, failed("ip route get "+a.String(), err)
	}
	r := returnpath.Reach{Place: returnpath.Link, Device: link.Attrs().Name}
	if err := returnpath.CheckDevice(r.Device); err != nil {
		return r, &DeviceError{Address: a, Err: err}
	}
	r.Forwards = forwards(r.Device, a.Is6())
	if router, ok := nextHop(route); ok {
		r.Place, r.Router = returnpath.Routed, router
	}
	return r, nil
}

// nextHop returns the router of a route. The kernel reports a router of the other
// family as RTA_VIA.
func nextHop(route netlink.Route) (netip.Addr, bool) {
	if via, ok := route.Via.(*netlink.Via); ok {
		return netip.AddrFromSlice(via.Addr)
	}
	router, ok := netip.AddrFromSlice(route.Gw)
	return router.Unmap(), ok
}

// reachOwn returns the reach of an address of this host: loopback if other hosts
// cannot talk to it, else local.
func reachOwn(a netip.Addr) (returnpath.Reach, error) {
	r := returnpath.Reach{Place: returnpath.Local, Device: "lo"}
	if a.IsLoopback() {
		r.Place = returnpath.Loopback
		return r, nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return r, failed("ip link", err)
	}
	for _, link := range links {
		isolated := link.Attrs().Flags&net.FlagLoopback != 0 || link.Type() == "dummy"
		if isolated && hasAddress(link, a) {
			r.Place = returnpath.Loopback
		}
	}
	return r, nil
}

// hasAddress reports whether a is an address of an interface.
func hasAddress(link netlink.Link, a netip.Addr) bool {
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	return err == nil && slices.ContainsFunc(list, func(n netlink.Addr) bool { return n.IP.Equal(net.IP(a.AsSlice())) })
}

// forwards reports whether the host forwards packets received on a device. If that
// is unknown it returns true, which leads to the recipe that works in both cases.
func forwards(device string, v6 bool) bool {
	family := "ipv4"
	if v6 {
		family = "ipv6"
	}
	text, err := os.ReadFile(filepath.Join("/proc/sys/net", family, "conf", device, "forwarding"))
	return err != nil || strings.TrimSpace(string(text)) != "0"
}
