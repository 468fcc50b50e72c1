package command

import (
	"fmt"
	"strings"

	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
)

// peerRows describes what happens to each class of peer, one line each, in the order in
// which the gateway decides.
func peerRows(row func(name, text string), f *forward.Forward) {
	if !f.HasInternetListener() { // peers on a unix socket have no address
		row("trust", everyProcess)
		return
	}
	if n := ruleCount(f.Health); n > 0 {
		row("health checks", ruleTexts(f.Health)+": "+either(f.Datagrams, "dropped", "closed cleanly")+", not forwarded")
	}
	if n := ruleCount(f.Direct); n > 0 {
		text := ruleTexts(f.Direct) + ": no header, each peer is the client itself"
		if _, _, overlap := config.Overlap(f.Direct, f.Trust); overlap {
			text += "; within a trust rule the more specific one decides"
		}
		row("direct", text)
	}
	row("trust", trusted(f))
}

const everyProcess = "every process that may connect to the socket"

// trusted describes which peers are trusted, and what happens to the others.
func trusted(f *forward.Forward) string {
	if ruleCount(f.Trust) == 0 {
		return everyProcess
	}
	others := "others are " + either(f.Datagrams, "dropped", "reset")
	if f.PassUntrusted {
		others = "others are taken as clients"
	}
	return ruleTexts(f.Trust) + "; " + others
}

// clientRows describes which clients are served.
func clientRows(row func(name, text string), f *forward.Forward) {
	switch denied := ruleCount(f.DenyClient); {
	case f.AllowClient != nil:
		row("clients", "only "+ruleTexts(f.AllowClient)+butNot(f, denied))
	case f.DenyClient != nil:
		row("clients", "all"+butNot(f, denied))
	}
	if r := f.ClientRate; r.PerSecond > 0 {
		row("client rate", fmt.Sprintf("%s a second, %d at once",
			value.Plural(r.PerSecond, either(f.Datagrams, "flow", "connection")), r.Burst))
	}
}

func butNot(f *forward.Forward, denied int) string {
	if denied == 0 {
		return ""
	}
	return " but not " + ruleTexts(f.DenyClient)
}

// ruleCount returns the number of rules of a list, as written.
func ruleCount(a forward.Addresses) int { return len(distinct(a)) }

// distinct returns the texts of a list's rules. A preset is one rule.
func distinct(a forward.Addresses) (texts []string) {
	seen := map[string]bool{}
	for _, r := range config.Rules(a) {
		if !seen[r.Text] {
			texts = append(texts, r.Text)
			seen[r.Text] = true
		}
	}
	return texts
}

// ruleTexts lists the first rules and their number.
func ruleTexts(a forward.Addresses) string {
	texts := distinct(a)
	const most = 5
	n := len(texts)
	if n > most {
		texts = append(texts[:most], "...")
	}
	return fmt.Sprintf("%s (%s)", strings.Join(texts, ", "), value.Plural(n, "rule"))
}
