package command

import (
	"net/netip"

	"unproxy/trust"
)

// jsonRule is a trust rule in JSON output.
type jsonRule struct {
	Prefix netip.Prefix `json:"prefix"`
	Rule   string       `json:"rule"`
	Origin string       `json:"origin"`
	Note   string       `json:"note,omitempty"`
}

// jsonWarning is a warning about a trust rule in JSON output.
type jsonWarning struct {
	Origin  string `json:"origin"`
	Rule    string `json:"rule"`
	Message string `json:"message"`
}

// jsonExplanation says whether an address is trusted, in JSON output.
type jsonExplanation struct {
	Address netip.Addr `json:"address"`
	Trusted bool       `json:"trusted"`
	Rule    *jsonRule  `json:"rule,omitempty"`
	Nearest *jsonRule  `json:"nearest,omitempty"`
}

// jsonPreset is a preset in JSON output.
type jsonPreset struct {
	Name     string         `json:"name"`
	Date     string         `json:"date"`
	Source   string         `json:"source"`
	Status   string         `json:"status"`
	Warning  string         `json:"warning,omitempty"`
	Shared   bool           `json:"shared"`
	Prefixes []netip.Prefix `json:"prefixes"`
}

// jsonRules converts rules. The result is never nil, which would be null in JSON.
func jsonRules(rules []trust.Rule) []jsonRule {
	out := make([]jsonRule, len(rules))
	for i, r := range rules {
		out[i] = jsonRule{Prefix: r.Prefix, Rule: r.Text, Origin: r.Origin, Note: r.Note}
	}
	return out
}

// jsonWarnings converts warnings. The result is never nil.
func jsonWarnings(warnings []trust.Warning) []jsonWarning {
	out := make([]jsonWarning, len(warnings))
	for i, w := range warnings {
		out[i] = jsonWarning{w.Origin, w.Rule, w.Message}
	}
	return out
}

// jsonPresets converts presets.
func jsonPresets(presets []trust.Preset) []jsonPreset {
	out := make([]jsonPreset, len(presets))
	for i, p := range presets {
		out[i] = jsonPreset{
			Name: p.Name, Date: p.Date, Source: p.Source, Status: p.Status,
			Warning: p.Warning, Shared: p.Shared, Prefixes: p.Prefixes,
		}
	}
	return out
}

// explainJSON says whether set trusts a.
func explainJSON(set *trust.Set, a netip.Addr) jsonExplanation {
	v := jsonExplanation{Address: a}
	r, ok := set.Lookup(a)
	if ok {
		v.Trusted, v.Rule = true, &jsonRules([]trust.Rule{r})[0]
		return v
	}
	if r, ok = set.Nearest(a); ok {
		v.Nearest = &jsonRules([]trust.Rule{r})[0]
	}
	return v
}
