package integration_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"unproxy/gateway/record"
)

// The metrics, labels and outcomes in the alert rules and the dashboard exist. The
// metrics are those of docs/metrics.md, which another test compares with the gateway.
func TestMonitoringNamesExist(t *testing.T) {
	labels := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(unproxy_\\w+)` \\| \\w+ \\|([^|]*)\\|").FindAllStringSubmatch(string(readFile(t, "../docs/metrics.md")), -1) {
		labels[row[1]] = names(row[2], "`(\\w+)`")
	}
	var outcomes []string
	for _, o := range record.Outcomes() {
		outcomes = append(outcomes, o.String())
	}
	var dashboard map[string]any
	if err := json.Unmarshal(readFile(t, "../scripts/monitoring/dashboard.json"), &dashboard); err != nil {
		t.Error(err)
	}
	for _, file := range []string{"alerts.yml", "dashboard.json"} {
		text := strings.ReplaceAll(string(readFile(t, "../scripts/monitoring/"+file)), `\"`, `"`)
		found := regexp.MustCompile(`(unproxy_\w+)(\{[^}]*\})?`).FindAllStringSubmatch(text, -1)
		if len(found) < 10 {
			t.Errorf("%s names only %d metrics", file, len(found))
		}
		for _, m := range found {
			name := regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(m[1], "")
			has, exists := labels[name]
			if !exists {
				t.Errorf("%s names %s, which does not exist", file, m[1])
			}
			for _, l := range names(m[2], `(\w+)[!=]~?"`) {
				if l != "instance" && l != "job" && !slices.Contains(has, l) {
					t.Errorf("%s: %s has no label %s", file, m[1], l)
				}
			}
		}
		for _, list := range names(text, `outcome[!=]~?"([a-z_|]+)"`) {
			for _, o := range strings.Split(list, "|") {
				if !slices.Contains(outcomes, o) {
					t.Errorf("%s names the outcome %s, which does not exist", file, o)
				}
			}
		}
	}
	if !strings.Contains(string(readFile(t, "../docs/metrics.md")), "../scripts/monitoring/dashboard.json") {
		t.Error("docs/metrics.md does not say that there is a dashboard")
	}
}

// The alert rules, the dashboard, the document and the program have the same definition
// of "refused".
func TestRefusedMeansTheSame(t *testing.T) {
	var served []string
	for _, o := range record.Outcomes() {
		if !o.Refused() {
			served = append(served, o.String())
		}
	}
	want := `outcome!~"` + strings.Join(served, "|") + `"`
	for _, file := range []string{"../scripts/monitoring/alerts.yml", "../scripts/monitoring/dashboard.json",
		"../docs/metrics.md"} {
		text := strings.ReplaceAll(string(readFile(t, file)), `\"`, `"`)
		for _, selector := range names(text, `(outcome!~"[^"]*")`) {
			if selector != want {
				t.Errorf("%s has %s; want %s", file, selector, want)
			}
		}
		if !strings.Contains(text, want) {
			t.Errorf("%s does not have %s", file, want)
		}
	}
}
