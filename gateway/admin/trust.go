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

// rulesOf returns the trust rules of a forward, or nil if they are not known.
func rulesOf(f *forward.Forward) []trust.RuleHits {
	if list, ok := f.Trust.(hitCounter); ok {
		return list.Hits()
	}
	return nil
}

// trustStatus returns the lists of trusted peers. Forwards that share a list appear
// in one entry.
func trustStatus(forwards []*forward.Forward) []TrustStatus {
	all := []TrustStatus{}
	index := map[hitCounter]int{}
	for _, f := range forwards {
		list, ok := f.Trust.(hitCounter)
		if !ok {
			continue
		}
		i, known := index[list]
		if !known {
			i = len(all)
			index[list] = i
			all = append(all, TrustStatus{Rules: ruleStatus(list)})
		}
		all[i].Forwards = append(all[i].Forwards, label(f.Label()))
	}
	return all
}

func ruleStatus(list hitCounter) []RuleStatus {
	all := []RuleStatus{}
	for _, r := range list.Hits() {
		all = append(all, RuleStatus{r.Text, r.Prefix.String(), r.Origin, r.Note, r.Hits})
	}
	return all
}
