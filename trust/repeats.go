package trust

import (
	"fmt"

	"github.com/gaissmai/bart"
)

// maxRepeats limits the warnings about redundant rules: a very wide rule can make
// all others redundant.
const maxRepeats = 10

// repeats warns about redundant rules: each prefix of such a rule equals, or is
// within, a prefix of another rule. An entry holds the prefixes of one rule as
// written. Of equal rules the first one is not redundant.
func repeats(entries [][]Rule) []Warning {
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
		by := coveredBy(first, rules, i)
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

// coveredBy returns the index of an entry other than self that covers the first
// of rules, if other entries cover all of rules, and -1 otherwise.
func coveredBy(first *bart.Table[int], rules []Rule, self int) int {
	by := -1
	for i, r := range rules {
		found := -1
		for _, entry := range first.Supernets(r.Prefix) {
			if entry != self {
				found = entry
				break
			}
		}
		if found < 0 {
			return -1
		}
		if i == 0 {
			by = found
		}
	}
	return by
}
