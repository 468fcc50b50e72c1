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

// Look finds out how this host reaches the addresses of a prefix: in one way for
// a single address, in several for a prefix that is spread over interfaces. A
// prefix is looked at by its first address, by the host's own addresses in it,
// and by the networks in it that the host has a route to. There is at least one
// way; its place is Unknown where the host has no route.
func Look(prefix netip.Prefix) ([]returnpath.Reach, error) {
	prefix = prefix.Masked()
	addresses := []netip.Addr{prefix.Addr()}
	if !prefix.IsSingleIP() {
		addresses[0] = prefix.Addr().Next() // the first one is the network's
		more, err := within(prefix)
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

// Locate returns backends with their place filled in. One that is a prefix
// spread over interfaces becomes several. Each address is looked at once,
// however many ports it has.
func Locate(backends []returnpath.Backend) ([]returnpath.Backend, error) {
	known := map[netip.Prefix][]returnpath.Reach{}
	var all []returnpath.Backend
	for _, b := range backends {
		ways, ok := known[b.Addr]
		if !ok {
			found, err := Look(b.Addr)
			if err != nil {
				return nil, err
			}
			ways, known[b.Addr] = found, found
		}
		for _, r := range ways {
			b.Reach = r
			all = append(all, b)
		}
	}
	return all, nil
}

// within returns the host's own addresses in a prefix, and an address of each
// network in it that the table main has a route to.
func within(prefix netip.Prefix) ([]netip.Addr, error) {
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
		if r.Dst == nil || !prefix.Contains(readPrefix(r.Dst).Addr()) || readPrefix(r.Dst).Bits() < prefix.Bits() {
			continue
		}
		all = append(all, another(readPrefix(r.Dst), all))
	}
	return all, nil
}

// another returns an address of a network that is none of the host's own.
func another(network netip.Prefix, own []netip.Addr) netip.Addr {
	if network.IsSingleIP() {
		return network.Addr()
	}
	first := network.Masked().Addr().Next()
	if slices.Contains(own, first) {
		return first.Next()
	}
	return first
}

// reach asks the kernel for the route to one address.
func reach(a netip.Addr) (returnpath.Reach, error) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return returnpath.Reach{}, nil // "network is unreachable" is an answer
	}
	route := routes[0]
	if route.Type == unix.RTN_LOCAL {
		return own(a)
	}
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return returnpath.Reach{}, failed("ip route get "+a.String(), err)
	}
	r := returnpath.Reach{Place: returnpath.Link, Device: link.Attrs().Name}
	r.Forwards = forwards(r.Device, a.Is6())
	if router, ok := nextHop(route); ok {
		r.Place, r.Router = returnpath.Routed, router
	}
	return r, nil
}

// nextHop returns the router of a route; one of the other family is in Via.
func nextHop(route netlink.Route) (netip.Addr, bool) {
	if via, ok := route.Via.(*netlink.Via); ok {
		return netip.AddrFromSlice(via.Addr)
	}
	router, ok := netip.AddrFromSlice(route.Gw)
	return router.Unmap(), ok
}

// own tells an address of the host that others may talk to from one that they
// cannot reach.
func own(a netip.Addr) (returnpath.Reach, error) {
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
		inside := link.Attrs().Flags&net.FlagLoopback != 0 || link.Type() == "dummy"
		if inside && has(link, a) {
			r.Place = returnpath.Loopback
		}
	}
	return r, nil
}

func has(link netlink.Link, a netip.Addr) bool {
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	return err == nil && slices.ContainsFunc(list, func(n netlink.Addr) bool { return n.IP.Equal(net.IP(a.AsSlice())) })
}

// forwards reports whether the host passes on what comes in by a device.
func forwards(device string, v6 bool) bool {
	family := "ipv4"
	if v6 {
		family = "ipv6"
	}
	text, err := os.ReadFile(filepath.Join("/proc/sys/net", family, "conf", device, "forwarding"))
	// Not to know is to take the recipe that is right in both cases.
	return err != nil || strings.TrimSpace(string(text)) != "0"
}

// Source returns the address of this host that it would talk to a with, and the
// hardware address of the interface; "" where that has none.
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

// HardwareAddress returns the hardware address behind a: of this host's own
// interface, or of a neighbour; "" if this host has not spoken with it lately.
func HardwareAddress(a netip.Addr) (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", failed("ip link", err)
	}
	for _, link := range links {
		if has(link, a) {
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
