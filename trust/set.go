// Package trust says who may speak for a client: which peers' PROXY headers
// are believed. An operator's rules become an immutable [Set] of prefixes that
// is asked once for each connection.
//
// Nothing here is lenient. A rule that might mean two things is refused with
// the two spellings that are clear, a list with one broken line is refused
// whole, and a set without a rule trusts nobody.
package trust

import (
	"math/bits"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Rule is one prefix that is trusted, and why.
type Rule struct {
	// Prefix holds the trusted addresses. It is masked, and never 4-in-6.
	Prefix netip.Prefix
	// Text is the rule as the operator wrote it: a prefix, an address, the
	// name of a preset, "any", or a template.
	Text string
	// Origin is where it was written: a flag, "--trust", or a line of a
	// file, "trust.txt:12".
	Origin string
	// Note says more of where the prefix comes from, such as "preset of
	// 2026-08-22"; it is empty for a prefix or address that was typed.
	Note string
}

// Set is the addresses that are trusted. It never changes but for the counters
// of its rules, and any number of goroutines may ask it. The zero value, and
// nil, trust nobody.
type Set struct {
	table bart.Table[int32] // prefix to the first of rules that has it
	rules []Rule
	hits  hits
}

// NewSet returns the set of all rules' prefixes. Prefixes that are not valid
// are left out.
func NewSet(rules []Rule) *Set {
	s := &Set{rules: make([]Rule, 0, len(rules))}
	for _, r := range rules {
		if !r.Prefix.IsValid() {
			continue
		}
		r.Prefix = r.Prefix.Masked()
		if _, taken := s.table.Get(r.Prefix); !taken {
			s.table.Insert(r.Prefix, int32(len(s.rules)))
		}
		s.rules = append(s.rules, r)
	}
	return s
}

// Contains reports whether a is trusted. A 4-in-6 address counts as the IPv4
// address in it; an address with a zone is never trusted, because the same
// link-local address may be another host on each link. It does not allocate.
func (s *Set) Contains(a netip.Addr) bool {
	if s == nil || a.Zone() != "" {
		return false
	}
	return s.table.Contains(a.Unmap())
}

// Lookup returns the most specific rule that admits a, and of several with
// the same prefix the one that was given first. It reports false exactly where
// [Set.Contains] does.
func (s *Set) Lookup(a netip.Addr) (Rule, bool) {
	if s == nil || a.Zone() != "" {
		return Rule{}, false
	}
	i, ok := s.table.Lookup(a.Unmap())
	if !ok {
		return Rule{}, false
	}
	return s.rules[i], true
}

// Nearest returns the rule of a's family whose prefix shares the most leading
// bits with a; of several, the one that lacks the fewest bits. It is for
// telling why a is not trusted: the rule that comes closest is often the one
// with the slip in it. It reports false when no rule is of a's family. It
// looks at every rule: it is not for the data path.
func (s *Set) Nearest(a netip.Addr) (Rule, bool) {
	if s == nil || !a.IsValid() {
		return Rule{}, false
	}
	a = a.Unmap().WithZone("")
	best, shared := -1, 0
	for i, r := range s.rules {
		if r.Prefix.Addr().BitLen() != a.BitLen() {
			continue
		}
		n := min(sharedBits(r.Prefix.Addr(), a), r.Prefix.Bits())
		if best >= 0 && (n < shared || n == shared && r.Prefix.Bits() >= s.rules[best].Prefix.Bits()) {
			continue
		}
		best, shared = i, n
	}
	if best < 0 {
		return Rule{}, false
	}
	return s.rules[best], true
}

// Rules returns all rules in the order in which they were given, those that
// say nothing new among them. The caller owns the slice.
func (s *Set) Rules() []Rule {
	if s == nil {
		return nil
	}
	return slices.Clone(s.rules)
}

// Len returns the number of rules that [Set.Rules] returns.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.rules)
}

// sharedBits returns the number of leading bits that a and b, both of one
// family and without a zone, have in common.
func sharedBits(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	skip := 128 - a.BitLen()
	for i := skip / 8; i < len(x); i++ {
		if d := x[i] ^ y[i]; d != 0 {
			return i*8 + bits.LeadingZeros8(d) - skip
		}
	}
	return a.BitLen()
}
