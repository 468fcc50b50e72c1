package admin

import (
	"unproxy/gateway/forward"
	"unproxy/trust"
)

// TrustStatus is one list of trusted peers.
type TrustStatus struct {
	// Forwards are the names of the forwards that use the list.
	Forwards []string     `json:"forwards"`
	Rules    []RuleStatus `json:"rules"`
}

// RuleStatus is one prefix of a trust rule. A rule that names several prefixes,
// such as a preset, appears once for each.
type RuleStatus struct {
	Rule   string `json:"rule"` // as written by the operator
	Prefix string `json:"prefix"`
	Origin string `json:"origin"` // the flag, or the file and line
	Note   string `json:"note,omitempty"`
	Hits   uint64 `json:"hits"` // connections admitted since the start
}

// hitCounter is a list of peers that counts how often each rule matched.
// [*trust.Set] implements it.
type hitCounter interface{ Hits() []trust.RuleHits }

// listUse is a list of addresses and the forwards that use it.
type listUse struct {
	kind     int // its place among the lists of the first of them
	list     hitCounter
	forwards []string
}

// listUses returns the lists that of names for each forward, in the order of their first
// use. A list that forwards share is one entry; one that counts no hits is none.
func listUses(forwards []*forward.Forward, of func(*forward.Forward) []forward.Addresses) (all []listUse) {
	index := map[hitCounter]int{}
	for _, f := range forwards {
		for kind, a := range of(f) {
			list, ok := a.(hitCounter)
			if !ok {
				continue
			}
			i, known := index[list]
			if !known {
				i = len(all)
				index[list] = i
				all = append(all, listUse{kind: kind, list: list})
			}
			all[i].forwards = append(all[i].forwards, label(f.Label()))
		}
	}
	return all
}

// trustStatus returns the lists of trusted peers. Forwards that share a list appear
// in one entry.
func trustStatus(forwards []*forward.Forward) []TrustStatus {
	all := []TrustStatus{}
	for _, u := range listUses(forwards, func(f *forward.Forward) []forward.Addresses {
		return []forward.Addresses{f.Trust}
	}) {
		t := TrustStatus{Forwards: u.forwards, Rules: []RuleStatus{}}
		for _, r := range u.list.Hits() {
			t.Rules = append(t.Rules, ruleStatus(r))
		}
		all = append(all, t)
	}
	return all
}

func ruleStatus(r trust.RuleHits) RuleStatus {
	return RuleStatus{r.Text, r.Prefix.String(), r.Origin, r.Note, r.Hits}
}
