package integration_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

// decisions is what cscli prints: alerts, each with its decisions.
const decisions = `[
 {"id": 7, "scenario": "crowdsecurity/ssh-bf", "source": {"scope": "Ip", "value": "203.0.113.7"}, "decisions": [
  {"id": 1, "origin": "crowdsec", "type": "ban", "scope": "Ip", "value": "203.0.113.7", "simulated": false, "duration": "3h"},
  {"id": 2, "origin": "cscli", "type": "captcha", "scope": "Ip", "value": "203.0.113.8", "simulated": false, "duration": "3h"},
  {"id": 3, "origin": "crowdsec", "type": "ban", "scope": "Ip", "value": "203.0.113.9", "simulated": true, "duration": "3h"}]},
 {"id": 8, "scenario": "manual", "source": {"scope": "Country", "value": "AQ"}, "decisions": [
  {"id": 4, "origin": "cscli", "type": "ban", "scope": "Country", "value": "AQ", "simulated": false, "duration": "3h"},
  {"id": 5, "origin": "CAPI", "type": "ban", "scope": "Range", "value": "2001:db8:7::/48", "simulated": false, "duration": "3h"}]},
 {"id": 9, "scenario": "expired", "source": {}, "decisions": null}
]`

// The recipe for CrowdSec in docs/clients.md makes a list that the gateway accepts: of the bans of
// addresses, of none, and not of an export that failed.
func TestCrowdSecRecipe(t *testing.T) {
	t.Parallel()
	lab.Require(t, "jq")
	recipe := regexp.MustCompile("(?s)```sh\n(cscli .*?)```").FindStringSubmatch(string(readFile(t, "../docs/clients.md")))
	if recipe == nil {
		t.Fatal("docs/clients.md has no recipe with cscli")
	}
	for _, tt := range []struct{ name, cscli, want string }{
		{"bans", "cat <<'end'\n" + decisions + "\nend\n", "203.0.113.7\n2001:db8:7::/48\n"},
		{"none", "echo '[]'\n", ""},
		{"failed", "exit 1\n", "invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			list := filepath.Join(dir, "deny.txt")
			script := strings.ReplaceAll(recipe[1], "/var/lib/crowdsec/unproxy-deny.txt", list)
			cscli := lab.Script(t, "cscli", "#!/bin/sh\n[ \"$*\" = 'decisions list --all --limit 0 -o json' ] || exit 2\n"+tt.cscli)
			lab.Must(t, lab.Command{Name: "sh", Args: []string{"-ec", script}, Dir: dir,
				Env: []string{"PATH=" + filepath.Dir(cscli) + ":" + os.Getenv("PATH")}})
			output, code := lab.RunGateway(t, "check", "--forward", ":2000=127.0.0.1:3000", "--trust", "10.0.0.2",
				"--deny-client-file", list)
			if valid := tt.want != "invalid"; valid != (code == 0) {
				t.Fatalf("exit code %d for the list %q: %s", code, readFile(t, list), output)
			}
			comment, addresses, _ := strings.Cut(string(readFile(t, list)), "\n")
			if tt.want != "invalid" && (!strings.HasPrefix(comment, "# ") || addresses != tt.want) {
				t.Errorf("the list is %q and %q, want a comment and %q", comment, addresses, tt.want)
			}
		})
	}
}
