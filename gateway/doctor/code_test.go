package doctor

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestCodes(t *testing.T) {
	all := Codes()
	for i, c := range all {
		if slices.Index(all, c) != i {
			t.Errorf("%s is a duplicate", c)
		}
		if !regexp.MustCompile(`^[a-z0-9_]+$`).MatchString(string(c)) || c.Component() == "" {
			t.Errorf("code %q, component %q", c, c.Component())
		}
		if m := c.Meaning(); !strings.HasSuffix(m, ".") || strings.Count(m, ".") != 1+strings.Count(m, "127.0.0.1")*3 {
			t.Errorf("%s means %q, want one sentence", c, m)
		}
		for _, cause := range c.row().causes {
			if cause == c || !slices.Contains(all, cause) {
				t.Errorf("%s lists %s as a cause", c, cause)
			}
		}
	}
	if none := Code("none"); none.Meaning() != "" || none.Component() != "" || none.follows(NetRaw) {
		t.Error("an unknown code has a meaning, a component or causes")
	}
}

// docs/doctor.md has a row for each code, in order, with its meaning.
func TestCodesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([^|]+) \\| [^|]+ \\|$")
	rows := row.FindAllStringSubmatch(string(text), -1)
	all := Codes()
	if len(rows) != len(all) {
		t.Fatalf("docs/doctor.md has %d codes, want %d", len(rows), len(all))
	}
	for i, c := range all {
		if rows[i][1] != string(c) || rows[i][2] != c.Meaning() {
			t.Errorf("row %d of docs/doctor.md is %q, %q; want %q, %q", i+1, rows[i][1], rows[i][2], c, c.Meaning())
		}
	}
}

func TestWithoutConsequences(t *testing.T) {
	f := func(c Code, target string, s Status) Finding { return finding(c, target, s, "x") }
	for _, tt := range []struct {
		name string
		all  []Finding
		want []Code
	}{
		{"a failure of the process explains every target",
			[]Finding{f(NetRaw, "capabilities", Fail), f(ReturnPath, "a", Skip), f(ReturnPath, "b", Skip)}, []Code{NetRaw}},
		{"a failure of one backend explains that one only",
			[]Finding{f(IPv6, "a", Fail), f(RulesMissing, "a", Fail), f(RulesMissing, "b", Fail)}, []Code{IPv6, RulesMissing}},
		{"a warning explains nothing", []Finding{f(Conntrack, "conntrack", Warn), f(RepliesLost, "a", Fail)},
			[]Code{Conntrack, RepliesLost}},
		{"OK is never omitted", []Finding{f(NetRaw, "capabilities", Fail), f(ReturnPath, "a", OK)},
			[]Code{NetRaw, ReturnPath}},
		{"the order does not matter", []Finding{f(RepliesLost, "a", Fail), f(Conntrack, "conntrack", Fail)},
			[]Code{Conntrack}},
		{"unrelated findings remain", []Finding{f(NetRaw, "capabilities", Fail), f(RulesMissing, "a", Fail),
			f(Backlog, "x", Warn)}, []Code{NetRaw, RulesMissing, Backlog}},
	} {
		var got []Code
		for _, f := range withoutConsequences(tt.all) {
			got = append(got, f.Code)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	r := Report{[]Finding{
		finding(NetRaw, "capabilities", OK, "it is effective"),
		finding(RulesMissing, "127.0.0.1:22", Fail, "%d rules", 2).with("ip rule", "# or"),
		finding(Backlog, "listen queue", Warn, "short"),
		finding(ReturnPath, "a", Skip, "no"),
	}}
	for s := OK; s <= Fail; s++ {
		if r.Count(s) != 1 {
			t.Errorf("%d findings are %s", r.Count(s), s)
		}
	}
	got, err := json.Marshal(Report{r.Findings[1:2]})
	const want = `{"findings":[{"code":"rules_missing","component":"return path","target":"127.0.0.1:22","status":"fail","detail":"2 rules","action":["ip rule","# or"]}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}
