package trust

import (
	"net/netip"
	"sync/atomic"
)

// shards is how many counters each rule has; asking for more of them than that
// makes some of them shared, which costs time and nothing else.
const shards = 64

// hits counts how often each rule of a set was the one that admitted an
// address. Event loops count in shards of their own, made when they are first
// used, so that no two of them write to the same memory.
type hits [shards]atomic.Pointer[[]atomic.Uint64]

// add counts one for a rule, of a set of n.
func (h *hits) add(shard, rule, n int) {
	counts := h[shard%shards].Load()
	if counts == nil {
		counts = h.grow(shard%shards, n)
	}
	(*counts)[rule].Add(1)
}

// grow makes a shard, unless somebody else just did.
func (h *hits) grow(shard, n int) *[]atomic.Uint64 {
	const line = 128 / 8 // counters of small sets must not share a cache line, nor the one beside it
	counts := make([]atomic.Uint64, max(n, line))
	if h[shard].CompareAndSwap(nil, &counts) {
		return &counts
	}
	return h[shard].Load()
}

// Admit is [Set.Contains] and counts the rule that [Set.Lookup] gives. Any
// goroutine may call it, with any shard that is not negative; callers of which
// each keeps to a shard of its own do not slow each other down. Only the first
// call with a shard allocates.
func (s *Set) Admit(a netip.Addr, shard int) bool {
	if s == nil || a.Zone() != "" {
		return false
	}
	rule, ok := s.table.Lookup(a.Unmap())
	if ok {
		s.hits.add(shard, int(rule), len(s.rules))
	}
	return ok
}

// RuleHits is a rule and how often it was the one that admitted an address.
type RuleHits struct {
	Rule
	Hits uint64
}

// Hits returns each of [Set.Rules] and how often [Set.Admit] said yes because
// of it. The caller owns the slice.
func (s *Set) Hits() []RuleHits {
	if s == nil {
		return nil
	}
	all := make([]RuleHits, len(s.rules))
	for i, r := range s.rules {
		all[i].Rule = r
	}
	for i := range s.hits {
		if counts := s.hits[i].Load(); counts != nil {
			for rule := range all {
				all[rule].Hits += (*counts)[rule].Load()
			}
		}
	}
	return all
}
