package trust

import (
	"fmt"

	"github.com/gaissmai/bart"
)

// maxRepeats is the number of warnings of rules that say nothing new: beside
// a very wide rule that may be all others.
const maxRepeats = 10

// repeats warns of rules that say nothing new: every prefix of theirs is also
// that of an earlier rule, or within that of another one. Each entry is what
// one rule of the operator's came to.
func repeats(entries [][]Rule) []Warning {
	first := new(bart.Table[int]) // prefix to the first entry that has it
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
		out = append(out, Warning{rules[0].Origin, rules[0].Text, fmt.Sprintf("says nothing new: %q (%s) covers it", other.Text, other.Origin)})
	}
	if more > 0 {
		out[len(out)-1].Message += fmt.Sprintf("; so it is with %d more rules", more)
	}
	return out
}

// coveredBy returns an entry other than self that covers the first of rules,
// provided that each of them is covered by such an entry; otherwise -1.
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
