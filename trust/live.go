package trust

import (
	"net/netip"
	"sync/atomic"
)

// Live is a [Set] that can be replaced while it is in use. The zero value trusts
// no address. All methods are safe for concurrent use and never block.
type Live struct{ set atomic.Pointer[Set] }

// NewLive returns a Live that holds s, which may be nil.
func NewLive(s *Set) *Live {
	l := new(Live)
	l.set.Store(s)
	return l
}

// Contains calls [Set.Contains] on the current set.
func (l *Live) Contains(a netip.Addr) bool { return l.set.Load().Contains(a) }

// Admit calls [Set.Admit] on the current set. The counters of a new set start
// at zero.
func (l *Live) Admit(a netip.Addr, shard int) bool { return l.set.Load().Admit(a, shard) }

// Bits calls [Set.Bits] on the current set.
func (l *Live) Bits(a netip.Addr) int { return l.set.Load().Bits(a) }

// Hits calls [Set.Hits] on the current set.
func (l *Live) Hits() []RuleHits { return l.set.Load().Hits() }

// Set returns the current set, which may be nil.
func (l *Live) Set() *Set { return l.set.Load() }

// Replace makes s the current set. A nil s trusts no address.
func (l *Live) Replace(s *Set) { l.set.Store(s) }
