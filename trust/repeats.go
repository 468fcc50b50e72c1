package trust

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
)

// maxRepeats limits the warnings about redundant rules: a very wide rule can make
// all others redundant.
const maxRepeats = 10

// Redundant warns about rules without effect: each prefix of such a rule equals, or is
// within, a prefix of another rule. between are sets whose more specific rules take
// precedence over those of s: a rule has an effect if one of theirs lies between it and the
// rule that covers it.
func (s *Set) Redundant(between ...*Set) []Warning {
	if s == nil {
		return nil
	}
	entries := make([][]Rule, 0, len(s.starts))
	for i, start := range s.starts {
		end := len(s.rules)
		if i+1 < len(s.starts) {
			end = s.starts[i+1]
		}
		entries = append(entries, s.rules[start:end])
	}
	return repeats(entries, between)
}

// repeats implements [Set.Redundant]. An entry holds the prefixes of one rule as written. Of
// equal rules the first one is not redundant.
func repeats(entries [][]Rule, between []*Set) []Warning {
	first := new(bart.Table[int]) // prefix to its first entry
	for i, rules := range entries {
		for _, r := range rules {
			if _, taken := first.Get(r.Prefix); !taken {
				first.Insert(r.Prefix, i)
			}
		}
	}
	var out []Warning
	more := 0
	for i, rules := range entries {
		by := coverage{first, between}.of(rules, i)
		if by < 0 {
			continue
		}
		if len(out) == maxRepeats {
			more++
			continue
		}
		other := entries[by][0]
		message := fmt.Sprintf("is redundant: %q (%s) covers it", other.Text, other.Origin)
		out = append(out, Warning{rules[0].Origin, rules[0].Text, message, true})
	}
	if more > 0 {
		out[len(out)-1].Message += fmt.Sprintf("; %d more rules are redundant", more)
	}
	return out
}

// coverage finds the rules that cover others.
type coverage struct {
	first   *bart.Table[int] // prefix to its first entry
	between []*Set
}

// of returns the index of an entry other than self that covers the first of rules, if
// other entries cover all of rules, and -1 otherwise.
func (c coverage) of(rules []Rule, self int) int {
	by := -1
	for i, r := range rules {
		found := c.entry(r.Prefix, self)
		if found < 0 {
			return -1
		}
		if i == 0 {
			by = found
		}
	}
	return by
}

// entry returns the index of the entry other than self that has the most specific prefix
// around p, or -1 if there is none, or if another set has a rule between them.
func (c coverage) entry(p netip.Prefix, self int) int {
	for around, entry := range c.first.Supernets(p) { // the most specific first
		if entry == self {
			continue
		}
		for _, s := range c.between {
			if r, found := s.Covering(p); found && r.Prefix.Bits() > around.Bits() {
				return -1
			}
		}
		return entry
	}
	return -1
}
