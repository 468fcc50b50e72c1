package trust

import (
	"net/netip"
	"sync/atomic"
)

// shards is the number of counter shards. Callers with shard numbers that are
// equal modulo shards contend for the same cache lines; counts stay correct.
const shards = 64

// minShardCounters keeps the counters of a small set from sharing a cache line,
// or the adjacent line that the hardware prefetches, with those of another shard.
const minShardCounters = 128 / 8 // two lines of 64 bytes, in counters of 8 bytes

// hits counts, for each rule of a set, how many addresses it admitted. Each
// event loop counts in a shard of its own, allocated on first use, so that loops
// do not write to the same cache line.
type hits [shards]atomic.Pointer[[]atomic.Uint64]

// add increments the counter of a rule. rules is the size of the set.
func (h *hits) add(shard, rule, rules int) {
	counts := h[shard%shards].Load()
	if counts == nil {
		counts = h.allocate(shard%shards, rules)
	}
	(*counts)[rule].Add(1)
}

// allocate creates a shard, or returns the one that another goroutine created
// first.
func (h *hits) allocate(shard, rules int) *[]atomic.Uint64 {
	counts := make([]atomic.Uint64, max(rules, minShardCounters))
	if h[shard].CompareAndSwap(nil, &counts) {
		return &counts
	}
	return h[shard].Load()
}

// Admit reports whether a is trusted, as [Set.Contains] does, and counts a hit
// for the rule that [Set.Lookup] returns. shard must not be negative; callers
// with different shards, up to 64 of them, do not slow each other down. Admit is
// safe for concurrent use. Only the first call with a shard allocates.
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

// RuleHits is a rule and the number of addresses it admitted.
type RuleHits struct {
	Rule
	Hits uint64
}

// Hits returns all [Set.Rules], each with the number of [Set.Admit] calls that
// it answered. Counts of concurrent calls may be missing. The caller owns the
// slice.
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
