package trust

import (
	"math/bits"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Rule is one trusted prefix and its origin.
type Rule struct {
	// Prefix is masked and never IPv4-mapped IPv6.
	Prefix netip.Prefix
	// Text is the rule as the operator wrote it: a prefix, an address, the
	// name of a preset, "any", or a template.
	Text string
	// Origin is where the rule was written: a flag ("--trust") or a line of a
	// file ("trust.txt:12").
	Origin string
	// Note says where the prefix comes from, such as "preset of 2026-08-22";
	// it is "" when Text is the prefix or address itself.
	Note string
}

// Set is an immutable set of trusted prefixes with a hit counter per rule. It is
// safe for concurrent use. The zero value and nil trust no address.
type Set struct {
	table bart.Table[int32] // prefix to the index of its first rule
	rules []Rule
	// starts are the indexes in rules at which the rules as written begin: a preset has
	// several prefixes. They are unknown, and empty, unless [Load] has made the set.
	starts []int
	hits   hits
}

// NewSet returns the set of the rules' prefixes. It skips rules whose prefix is
// invalid.
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

// Contains reports whether a is trusted. An IPv4-mapped address counts as the
// IPv4 address. An address with a zone is never trusted: the same link-local
// address can belong to another host on another link (RFC 4007, section 6).
// Contains does not allocate.
func (s *Set) Contains(a netip.Addr) bool {
	if s == nil || a.Zone() != "" {
		return false
	}
	return s.table.Contains(a.Unmap())
}

// Lookup returns the most specific rule that contains a, the first one given if
// several have that prefix. It reports false if and only if [Set.Contains] does.
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

// Bits returns the length of the longest prefix that contains a, or -1 if a is not
// trusted. It does not allocate.
func (s *Set) Bits(a netip.Addr) int {
	if s == nil || a.Zone() != "" {
		return -1
	}
	i, ok := s.table.Lookup(a.Unmap())
	if !ok {
		return -1
	}
	return s.rules[i].Prefix.Bits()
}

// Covering returns the most specific rule that contains all of a prefix. It does not
// allocate.
func (s *Set) Covering(p netip.Prefix) (Rule, bool) {
	if s == nil {
		return Rule{}, false
	}
	i, ok := s.table.LookupPrefix(p)
	if !ok {
		return Rule{}, false
	}
	return s.rules[i], true
}

// Nearest returns the rule whose prefix shares the most leading bits with a, the
// shortest prefix if several do. It explains why a is not trusted: the nearest
// rule is often the mistyped one. It reports false if no rule has a's address
// family. It scans all rules, so it is not meant for the data path.
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

// Rules returns all rules, including redundant ones, in the order in which they
// were given. The caller owns the slice.
func (s *Set) Rules() []Rule {
	if s == nil {
		return nil
	}
	return slices.Clone(s.rules)
}

// Len returns the length of [Set.Rules].
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.rules)
}

// sharedBits returns the number of leading bits that a and b have in common. They
// must be of the same family.
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
