package transparent

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
)

// OwnAddresses is the set of the host's own addresses as of the last
// [OwnAddresses.Refresh]. It is safe for concurrent use.
type OwnAddresses struct {
	list func() ([]netip.Addr, error)
	set  atomic.Pointer[map[netip.Addr]struct{}]
}

// NewOwnAddresses returns the set of the addresses that list returns now. A nil
// list is [HostAddresses]. It returns the error of list.
func NewOwnAddresses(list func() ([]netip.Addr, error)) (*OwnAddresses, error) {
	if list == nil {
		list = HostAddresses
	}
	o := &OwnAddresses{list: list}
	return o, o.Refresh()
}

// Contains reports whether a, unmapped and without its zone, is in the set. It
// does not allocate.
func (o *OwnAddresses) Contains(a netip.Addr) bool {
	set := o.set.Load()
	if set == nil {
		return false
	}
	_, ok := (*set)[a.Unmap().WithZone("")]
	return ok
}

// Refresh lists the addresses again. If that fails, the set remains unchanged.
func (o *OwnAddresses) Refresh() error {
	all, err := o.list()
	if err != nil {
		return fmt.Errorf("list the host's addresses: %w", err)
	}
	set := make(map[netip.Addr]struct{}, len(all))
	for _, a := range all {
		set[a.Unmap().WithZone("")] = struct{}{}
	}
	o.set.Store(&set)
	return nil
}

// HostAddresses returns the addresses of the host's interfaces, unmapped and
// without zones, and the first and last address of each IPv4 network.
//
// Those two are broadcast addresses. The kernel does not use one as a source: it
// connects from an address of the host instead (__inet_bind, RTN_BROADCAST).
func HostAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	all := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		ones, _ := n.Mask.Size()
		all = appendNetwork(all, netip.PrefixFrom(addr.Unmap(), ones))
	}
	return all, nil
}

// maxBroadcastBits is the longest prefix of an IPv4 network with broadcast
// addresses: a /31 and a /32 have none (RFC 3021).
const maxBroadcastBits = 30

// appendNetwork appends p's address and, for IPv4, its network's broadcast
// addresses.
func appendNetwork(all []netip.Addr, p netip.Prefix) []netip.Addr {
	all = append(all, p.Addr())
	if !p.Addr().Is4() || p.Bits() > maxBroadcastBits {
		return all
	}
	first := p.Masked().Addr()
	last := first.As4()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return append(all, first, netip.AddrFrom4(last))
}
