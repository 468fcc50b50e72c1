package command

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"unproxy/gateway/admin"
	"unproxy/gateway/config/value"
)

// writeTrust writes the rules about peers.
func writeTrust(w io.Writer, all []admin.TrustStatus) {
	for _, list := range all {
		t := table(w, "Trust, for "+strings.Join(list.Forwards, ", "), "RULE", "CONNECTIONS", "FROM")
		writeRules(t, list.Rules)
	}
}

// writeClients writes the rules about clients that have matched, and the number of bans.
func writeClients(w io.Writer, s *admin.Status) {
	for _, list := range s.Clients {
		prefixes := either(list.Count == 1, "1 prefix", fmt.Sprintf("%d prefixes", list.Count))
		heading := fmt.Sprintf("Clients to %s, for %s (%s, %s)", list.Action, strings.Join(list.Forwards, ", "),
			prefixes, value.Plural(int(list.Hits), "connection"))
		if len(list.Rules) == 0 {
			fmt.Fprintf(w, "\n%s\n", heading)
			continue
		}
		writeRules(table(w, heading, "RULE", "CONNECTIONS", "FROM"), list.Rules)
	}
	if s.Bans > 0 {
		fmt.Fprintf(w, "\n%s, see unproxy bans\n", value.Plural(s.Bans, "ban"))
	}
}

// writeRules writes a row for each rule and ends the table.
func writeRules(t *tabwriter.Writer, rules []admin.RuleStatus) {
	for _, r := range byRule(rules) {
		origin := r.Origin
		if r.Note != "" {
			origin += ", " + r.Note
		}
		fmt.Fprintf(t, "  %s\t%d\t%s\n", r.Rule, r.Hits, origin)
	}
	t.Flush()
}

// byRule merges the prefixes of each rule, such as a preset, and adds up their hits.
func byRule(rules []admin.RuleStatus) (all []admin.RuleStatus) {
	type key struct{ rule, origin string }
	index := map[key]int{}
	for _, r := range rules {
		k := key{r.Rule, r.Origin}
		if i, known := index[k]; known {
			all[i].Hits += r.Hits
			continue
		}
		index[k] = len(all)
		all = append(all, r)
	}
	return all
}
