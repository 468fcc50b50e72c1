package transparent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
)

// HostAddresses says what a host does with addresses.
type HostAddresses struct {
	// Own are the addresses that the host accepts packets to.
	Own []netip.Prefix
	// Replaced are the addresses that the kernel replaces with one of the host's
	// own if a socket that is bound to them connects: those of broadcast and
	// multicast routes (__inet_bind).
	Replaced []netip.Prefix
}

// OwnAddresses is the set of the host's own addresses as of the last
// [OwnAddresses.Refresh]. It is safe for concurrent use, and its lookups neither
// lock nor allocate.
type OwnAddresses struct {
	list          func() (HostAddresses, error)
	own, replaced ranges
}

// NewOwnAddresses returns the set of the addresses that list returns now, or the
// error of list.
func NewOwnAddresses(list func() (HostAddresses, error)) (*OwnAddresses, error) {
	o := &OwnAddresses{list: list}
	return o, o.Refresh()
}

// Contains reports whether a, unmapped and without its zone, is one of the host's
// own addresses.
func (o *OwnAddresses) Contains(a netip.Addr) bool { return o.own.Contains(a) }

// Replaced returns the set of [HostAddresses.Replaced], which Refresh updates.
func (o *OwnAddresses) Replaced() Addresses { return &o.replaced }

// Refresh lists the addresses again. If that fails, the set remains unchanged.
func (o *OwnAddresses) Refresh() error {
	all, err := o.list()
	if err != nil {
		return fmt.Errorf("list the host's addresses: %w", err)
	}
	o.own.replace(all.Own)
	o.replaced.replace(all.Replaced)
	return nil
}

// ranges is a set of prefixes whose content can be replaced.
type ranges struct {
	// prefixes are sorted, and none contains another.
	prefixes atomic.Pointer[[]netip.Prefix]
}

// Contains reports whether a prefix contains a, unmapped and without its zone.
func (r *ranges) Contains(a netip.Addr) bool {
	prefixes := r.prefixes.Load()
	if prefixes == nil {
		return false
	}
	a = a.Unmap().WithZone("")
	// Of disjoint prefixes, the last one that begins at a or before it decides.
	begin := func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) }
	i, found := slices.BinarySearchFunc(*prefixes, a, begin)
	if found {
		return true
	}
	return i > 0 && (*prefixes)[i-1].Contains(a)
}

// replace replaces the content. It ignores invalid prefixes, and zones.
func (r *ranges) replace(prefixes []netip.Prefix) {
	var sorted []netip.Prefix
	for _, p := range prefixes {
		if p = unmapPrefix(p); p.IsValid() {
			sorted = append(sorted, p)
		}
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var disjoint []netip.Prefix
	for _, p := range sorted {
		if n := len(disjoint); n == 0 || !disjoint[n-1].Contains(p.Addr()) {
			disjoint = append(disjoint, p)
		}
	}
	r.prefixes.Store(&disjoint)
}

// unmapPrefix returns p as a prefix of IPv4 if its addresses are IPv4-mapped, with
// the bits behind it zero.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}
