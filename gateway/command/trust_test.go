package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"unproxy/gateway/command/usage"
	"unproxy/trust"
)

// runTrust runs "unproxy trust" with args and returns its output and exit code.
func runTrust(args ...string) (stdout, stderr string, exit int) {
	var out, errs bytes.Buffer
	exit = Main(append([]string{"unproxy", "trust"}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), exit
}

// trustFile writes a trust file and returns its path.
func trustFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "trust.txt")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTrustExplain(t *testing.T) {
	file := trustFile(t, "# ours\n192.0.2.0/24\n")
	tests := []struct {
		name string
		args []string
		want string
		exit int
	}{
		{"preset", []string{"--trust", "cloudflare", "173.245.48.9"}, "trusted: rule \"cloudflare\" (173.245.48.0/20, preset of 2026-08-22, --trust)\n", usage.ExitSuccess},
		{"flag for the address", []string{"--address", "173.245.48.9", "--trust", "cloudflare"}, "trusted: rule \"cloudflare\" (173.245.48.0/20, preset of 2026-08-22, --trust)\n", usage.ExitSuccess},
		{"prefix", []string{"--trust", "10.0.0.0/8", "10.1.2.3"}, "trusted: rule \"10.0.0.0/8\" (--trust)\n", usage.ExitSuccess},
		{"most specific", []string{"--trust", "10.0.0.0/8", "--trust", "10.1.0.0/16", "10.1.2.3"}, "trusted: rule \"10.1.0.0/16\" (--trust)\n", usage.ExitSuccess},
		{"file", []string{"--trust-file", file, "192.0.2.9"}, "trusted: rule \"192.0.2.0/24\" (" + file + ":2)\n", usage.ExitSuccess},
		{"4-in-6", []string{"--trust", "10.0.0.0/8", "::ffff:10.1.2.3"}, "trusted: rule \"10.0.0.0/8\" (--trust)\n", usage.ExitSuccess},
		{"miss", []string{"--trust", "10.1.0.0/16", "--trust", "192.0.2.0/24", "10.3.0.1"}, "not trusted; nearest rule \"10.1.0.0/16\" (--trust), 14 of 16 bits match\n", usage.ExitFailure},
		{"other family", []string{"--trust", "10.1.0.0/16", "2001:db8::1"}, "not trusted; no rule has its address family\n", usage.ExitFailure},
		{"zone", []string{"--trust", "any", "fe80::1%eth0"}, "not trusted: an address with a zone never is\n", usage.ExitFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, errs, exit := runTrust(append([]string{"explain"}, tt.args...)...)
			if got != tt.want || errs != "" || exit != tt.exit {
				t.Errorf("trust explain %q = %q, exit code %d; want %q, %d (%s)", tt.args, got, exit, tt.want, tt.exit, errs)
			}
		})
	}
}

func TestTrustMistakes(t *testing.T) {
	tests := []struct {
		name, want, hint string
		args             []string
	}{
		{"nothing", "trust needs a command", "explain", nil},
		{"misspelt", `unknown command "lst"`, "list", []string{"lst"}},
		{"no rule", "no trust rule", "--trust 10.0.0.0/8", []string{"explain", "10.0.0.1"}},
		{"no rule to list", "no trust rule", "--trust 10.0.0.0/8", []string{"list"}},
		// urfave/cli silently stops parsing flags at the first argument.
		{"flag after the address", "--trust comes after the address", "flags first", []string{"explain", "10.0.0.1", "--trust", "any"}},
		{"flag after the name", "--json comes after the name", "flags first", []string{"presets", "cloudflare", "--json"}},
		{"two addresses", "more than one address", "give one", []string{"explain", "--trust", "any", "10.0.0.1", "10.0.0.2"}},
		{"address twice", "more than one address: ", "give one", []string{"explain", "--trust", "any", "--address", "10.0.0.1", "10.0.0.2"}},
		{"no address", "no address", "write unproxy trust explain --trust RULE ADDRESS", []string{"explain", "--trust", "any"}},
		{"a port", `"10.0.0.1:80" is not an address`, "write 10.0.0.1", []string{"explain", "--trust", "any", "10.0.0.1:80"}},
		{"a name", `"lb" is not an address`, "173.245.48.9", []string{"explain", "--trust", "any", "lb"}},
		{"argument of list", `unexpected argument "10.0.0.0/8"`, "--trust 10.0.0.0/8", []string{"list", "10.0.0.0/8"}},
		{"no such preset", `unknown preset "akamai"`, "cloudflare", []string{"presets", "akamai"}},
		{"broken rule", `"10.0.0.1/8" has host bits set`, "write 10.0.0.0/8", []string{"list", "--trust", "10.0.0.1/8"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, errs, exit := runTrust(tt.args...)
			if out != "" || exit != usage.ExitUsage {
				t.Fatalf("trust %q printed %q and ends with %d, want exit code %d alone", tt.args, out, exit, usage.ExitUsage)
			}
			problem, hint, _ := strings.Cut(errs, "\nunproxy: hint: ")
			if !strings.Contains(problem, tt.want) || !strings.Contains(hint, tt.hint) {
				t.Errorf("trust %q: %s, want %q with the hint %q", tt.args, errs, tt.want, tt.hint)
			}
		})
	}
}

func TestTrustList(t *testing.T) {
	t.Setenv("UNPROXY_TRUST", "10.0.0.0/8 10.1.0.0/16")
	t.Setenv("UNPROXY_TRUST_FILE", trustFile(t, "loopback\n"))
	got, errs, exit := runTrust("list")
	if exit != usage.ExitSuccess {
		t.Fatal(errs)
	}
	for _, want := range []string{
		"10.0.0.0/8   10.0.0.0/8", "127.0.0.0/8", "trust.txt:1", "RFC 1122",
		"warning: --trust: \"10.1.0.0/16\" is redundant", "every process on this host",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("trust list does not say %q:\n%s", want, got)
		}
	}
}

// A trust rule has an effect if a direct rule lies between it and the one around it.
func TestTrustListKnowsDirectRules(t *testing.T) {
	rules := []string{"list", "--trust", "10.0.0.0/8", "--trust", "10.1.0.0/16", "--trust", "10.2.0.0/16"}
	for _, tt := range []struct {
		direct  []string
		without string
		want    int
	}{
		{nil, "", 2},
		{[]string{"--direct", "10.0.0.0/15"}, `"10.1.0.0/16"`, 1},
		{[]string{"--direct", "10.3.0.0/16"}, "", 2},
	} {
		got, errs, exit := runTrust(append(rules, tt.direct...)...)
		_, warnings, _ := strings.Cut(got, "warning: ")
		if n := strings.Count(got, "is redundant"); exit != usage.ExitSuccess || n != tt.want ||
			tt.without != "" && strings.Contains(warnings, tt.without+" is redundant") {
			t.Errorf("%q: exit code %d, %s, want %d warnings:\n%s", tt.direct, exit, errs, tt.want, got)
		}
	}
	if _, errs, exit := runTrust(append(rules, "--direct", "10.0.0.0/33")...); exit != usage.ExitUsage || !strings.Contains(errs, "--direct") {
		t.Errorf("a wrong direct rule: exit code %d, %s", exit, errs)
	}
}

func TestTrustJSON(t *testing.T) {
	out, _, exit := runTrust("explain", "--json", "--trust", "10.0.0.0/8", "11.0.0.1")
	var answer jsonExplanation
	if bad := json.Unmarshal([]byte(out), &answer); bad != nil || exit != usage.ExitFailure {
		t.Fatalf("trust explain --json: %v, exit code %d:\n%s", bad, exit, out)
	}
	if answer.Trusted || answer.Rule != nil || answer.Nearest == nil || answer.Nearest.Rule != "10.0.0.0/8" {
		t.Errorf("trust explain --json of a miss = %s", out)
	}

	out, _, exit = runTrust("list", "--json", "--trust", "any")
	var list struct {
		Rules    []jsonRule
		Warnings []jsonWarning
	}
	if bad := json.Unmarshal([]byte(out), &list); bad != nil || exit != usage.ExitSuccess || len(list.Rules) != 2 || len(list.Warnings) != 1 {
		t.Errorf("trust list --json of any: %v, exit code %d:\n%s", bad, exit, out)
	}

	out, _, exit = runTrust("presets", "--json")
	var presets []jsonPreset
	if bad := json.Unmarshal([]byte(out), &presets); bad != nil || exit != usage.ExitSuccess || len(presets) != len(trust.Presets()) {
		t.Errorf("trust presets --json: %v, exit code %d:\n%s", bad, exit, out)
	}
}

func TestTrustPresets(t *testing.T) {
	out, _, exit := runTrust("presets")
	if lines := strings.Count(out, "\n"); exit != usage.ExitSuccess || lines != 1+len(trust.Presets()) {
		t.Errorf("trust presets prints %d lines, exit code %d; want a head and a line for each of %d", lines, exit, len(trust.Presets()))
	}
	// What "presets NAME" prints is itself a trust file with the same prefixes.
	for _, p := range trust.Presets() {
		out, errs, exit := runTrust("presets", p.Name)
		if exit != usage.ExitSuccess {
			t.Fatal(errs)
		}
		set, _, err := trust.Load(trust.Source{Files: []string{trustFile(t, out)}})
		if err != nil || set.Len() != len(p.Prefixes) {
			t.Errorf("trust presets %s as a trust file: %d rules, %v; want %d", p.Name, set.Len(), err, len(p.Prefixes))
		}
	}
}
