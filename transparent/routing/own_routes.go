package routing

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// typedRoute is a route of one of the types in kind.
type typedRoute struct {
	to    netip.Prefix
	table uint32
	kind  uint8 // RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST or RTN_MULTICAST
}

// isTyped reports whether routes of a type say what kind of address the destination
// is.
func isTyped(kind uint8) bool {
	switch kind {
	case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		return true
	}
	return false
}

// typedRoutes returns the typed routes of all tables and both families. It asks the
// kernel for these types only, because a router may have a million other routes.
func typedRoutes() ([]typedRoute, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, failed("ip route show table all", os.NewSyscallError("netlink", err))
	}
	defer socket.Close()
	// Kernels before 4.20 do not have the option and send all routes.
	unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	var all []typedRoute
	for _, v6 := range families {
		for _, kind := range []uint8{unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST} {
			routes, err := dumpRoutes(socket, v6, kind)
			if err != nil {
				return nil, failed("ip route show table all", err)
			}
			all = append(all, routes...)
		}
	}
	return all, nil
}

// dumpRoutes returns all routes of a family and type.
func dumpRoutes(socket *nl.NetlinkSocket, v6 bool, kind uint8) ([]typedRoute, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(v6)), Type: kind}})
	var all []typedRoute
	err := request.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE, func(message []byte) bool {
		// For a family that it does not support, the kernel sends the routes of
		// the others.
		if r, ok := readTyped(message); ok && r.kind == kind && r.to.Addr().Is6() == v6 {
			all = append(all, r)
		}
		return true
	})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, nl.ErrDumpInterrupted) {
		err = nil // a change interrupted it; its event makes the caller read the routes again
	}
	return all, err
}

// readTyped converts the kernel's message. ok is false for routes of other types.
func readTyped(message []byte) (r typedRoute, ok bool) {
	if len(message) < unix.SizeofRtMsg {
		return r, false
	}
	m := nl.DeserializeRtMsg(message)
	if !isTyped(m.Type) || m.Flags&unix.RTM_F_CLONED != 0 {
		return r, false
	}
	attributes, err := nl.ParseRouteAttr(message[m.Len():])
	if err != nil {
		return r, false
	}
	to := netip.IPv6Unspecified()
	switch m.Family {
	case unix.AF_INET:
		to = netip.IPv4Unspecified()
	case unix.AF_INET6:
	default:
		return r, false
	}
	r.table, r.kind = uint32(m.Table), m.Type
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_DST:
			if to, ok = netip.AddrFromSlice(a.Value); !ok {
				return r, false
			}
		case unix.RTA_TABLE:
			r.table = binary.NativeEndian.Uint32(a.Value)
		}
	}
	r.to = netip.PrefixFrom(to, int(m.Dst_len))
	return r, r.to.IsValid()
}
