package admin

import (
	"unproxy/gateway/forward"
	"unproxy/trust"
)

// counting is a list of peers that knows which of its rules are used;
// [*trust.Set] is one.
type counting interface{ Hits() []trust.RuleHits }

// rulesOf returns the rules that say who may name a client to a forward, where
// they are known.
func rulesOf(f *forward.Forward) []trust.RuleHits {
	if set, ok := f.Trust.(counting); ok {
		return set.Hits()
	}
	return nil
}
