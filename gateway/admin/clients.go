package admin

import (
	"cmp"
	"slices"

	"unproxy/gateway/forward"
	"unproxy/trust"
)

// ClientList is one list of rules about clients.
type ClientList struct {
	// Forwards are the names of the forwards that use the list.
	Forwards []string `json:"forwards"`
	// Action is "allow" or "deny".
	Action string `json:"action"`
	// Count is the number of rules, and Hits how often one of them matched.
	Count int    `json:"count"`
	Hits  uint64 `json:"hits"`
	// Rules are those that matched most often, at most 20.
	Rules []RuleStatus `json:"rules"`
}

// maxClientRules is how many rules of a list are shown. A list may have many thousands.
const maxClientRules = 20

// clientLists returns the rules about clients. Forwards that share a list appear in one
// entry.
func clientLists(forwards []*forward.Forward) []ClientList {
	all := []ClientList{}
	for _, u := range listUses(forwards, func(f *forward.Forward) []forward.Addresses {
		return []forward.Addresses{f.DenyClient, f.AllowClient}
	}) {
		c := clientList([...]string{"deny", "allow"}[u.kind], u.list)
		c.Forwards = u.forwards
		all = append(all, c)
	}
	return all
}

// clientList describes one list.
func clientList(action string, list hitCounter) ClientList {
	rules := list.Hits()
	c := ClientList{Action: action, Count: len(rules), Rules: []RuleStatus{}}
	slices.SortStableFunc(rules, func(a, b trust.RuleHits) int { return cmp.Compare(b.Hits, a.Hits) })
	for i, r := range rules {
		c.Hits += r.Hits
		if i < maxClientRules && r.Hits > 0 {
			c.Rules = append(c.Rules, ruleStatus(r))
		}
	}
	return c
}
