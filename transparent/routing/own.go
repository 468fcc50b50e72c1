package routing

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OwnAddresses returns the addresses that this host treats specially. own are those
// to which it accepts packets: the addresses of its interfaces, and the destinations
// of routes of type local or anycast. replaced are the destinations of broadcast and
// multicast routes: the kernel does not connect from them, even if a socket is bound
// to one.
//
// It reads table local, and the tables that a rule looks up for packets from all
// sources. The table of a return path is not among them: it makes every address
// local, but its rules select packets by source or mark. It needs no capability.
func OwnAddresses() (own, replaced []netip.Prefix, err error) {
	own, replaced, err = interfaceAddresses()
	if err != nil {
		return nil, nil, err
	}
	tables, err := generalTables()
	if err != nil {
		return nil, nil, err
	}
	routes, err := typedRoutes()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range routes {
		for _, t := range tables {
			prefix, overlap := t.restrict(r)
			switch {
			case !overlap:
			case r.kind == unix.RTN_LOCAL || r.kind == unix.RTN_ANYCAST:
				own = append(own, prefix)
			default:
				replaced = append(replaced, prefix)
			}
		}
	}
	return own, replaced, nil
}

// maxBroadcastBits is the longest prefix of an IPv4 network with broadcast
// addresses: a /31 and a /32 have none (RFC 3021).
const maxBroadcastBits = 30

// interfaceAddresses returns the addresses of all interfaces, including those that
// are down or in a VRF. It also returns, as replaced, the broadcast addresses of
// IPv4 networks: the one that is configured, and the last and the first address.
// Kernels before 5.14 treat the first as one, too.
func interfaceAddresses() (own, replaced []netip.Prefix, err error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, nil, failed("ip address", err)
	}
	for _, a := range list {
		if a.IPNet == nil {
			continue
		}
		p := readPrefix(a.IPNet)
		own = append(own, single(p.Addr()))
		if b, ok := netip.AddrFromSlice(a.Broadcast); ok {
			replaced = append(replaced, single(b))
		}
		if p.Addr().Is4() && p.Bits() <= maxBroadcastBits {
			replaced = append(replaced, single(p.Masked().Addr()), single(lastAddress(p)))
		}
	}
	return own, replaced, nil
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// lastAddress returns the last address of an IPv4 network.
func lastAddress(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().As4()
	host := ^uint32(0) >> p.Bits()
	binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])|host)
	return netip.AddrFrom4(last)
}

// generalTable is a table that is looked up for packets from all sources.
type generalTable struct {
	v6    bool
	table uint32
	to    netip.Prefix // the destinations; invalid: all
}

// generalTables returns the tables that rules look up for all packets, or for all to
// a destination. Table local is always one of them: bind(2) reads it whatever the
// rules are (inet_addr_type).
func generalTables() ([]generalTable, error) {
	var all []generalTable
	for _, v6 := range families {
		all = append(all, generalTable{v6: v6, table: unix.RT_TABLE_LOCAL})
		rules, err := netlink.RuleList(family(v6))
		switch {
		case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP): // a kernel without rules
			all = append(all, generalTable{v6: v6, table: unix.RT_TABLE_MAIN})
			continue
		case err != nil && !errors.Is(err, netlink.ErrDumpInterrupted):
			return nil, failed("ip rule", err)
		}
		for i := range rules {
			r := &rules[i]
			if r.Table <= 0 || !isGeneral(r) {
				continue
			}
			t := generalTable{v6: v6, table: uint32(r.Table)}
			if r.Dst != nil {
				t.to = readPrefix(r.Dst)
			}
			all = append(all, t)
		}
	}
	return all, nil
}

// isGeneral reports whether a rule selects packets by nothing but their destination.
func isGeneral(r *netlink.Rule) bool {
	return !r.Invert && r.Src == nil && r.IifName == "" && r.OifName == "" && r.Mark == 0 && r.Mask == nil &&
		r.Tos == 0 && r.TunID == 0 && r.IPProto == 0 && r.Sport == nil && r.Dport == nil && r.UIDRange == nil
}

// restrict returns the part of a route that the table's rule reaches.
func (t generalTable) restrict(r typedRoute) (part netip.Prefix, overlap bool) {
	switch {
	case t.table != r.table || t.v6 != r.to.Addr().Is6():
		return part, false
	case !t.to.IsValid():
		return r.to, true
	case !t.to.Overlaps(r.to):
		return part, false
	case t.to.Bits() > r.to.Bits():
		return t.to, true
	}
	return r.to, true
}
