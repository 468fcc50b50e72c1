package packages_test

import (
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

// Each example in the package's settings is valid, and alone in the file it starts with
// a number of its own.
func TestSettingsExamples(t *testing.T) {
	t.Parallel()
	text := readFile(t, "../../scripts/package/unproxy.env")
	if bare := uncommented(text, false); strings.TrimSpace(bare) != "" {
		t.Errorf("set by default:\n%s", bare)
	}
	blocks := strings.Split(text, "\n\n")[1:]
	if len(blocks) != 20 {
		t.Errorf("%d examples, want 20", len(blocks))
	}
	trust := lab.WriteFile(t, "trust", "10.0.0.0/8\n")
	for _, block := range blocks {
		settings := strings.ReplaceAll(uncommented(block, true), "/etc/unproxy/trust", trust)
		if settings == "" {
			t.Errorf("no variable in\n%s", block)
			continue
		}
		settings = "UNPROXY_FORWARD=127.0.0.1:2000=127.0.0.1:3000\nUNPROXY_TRUST=10.0.0.2\n" + settings
		out, code := lab.RunGateway(t, "check", "--env-file", lab.WriteFile(t, "env", settings))
		if code != 0 || !strings.Contains(out, "ok: ") {
			t.Errorf("exit code %d for\n%s\n%s", code, settings, out)
		}
	}
}

// uncommented returns the settings in a file. With examples it returns those in comments,
// which begin with a variable and end with its quotes.
func uncommented(text string, examples bool) string {
	var settings strings.Builder
	open := false
	for line := range strings.Lines(text) {
		rest, comment := strings.CutPrefix(line, "#")
		if comment != examples || examples && !open && !strings.HasPrefix(rest, "UNPROXY_") {
			continue
		}
		settings.WriteString(rest)
		if strings.Count(rest, `"`)%2 == 1 {
			open = !open
		}
	}
	return settings.String()
}
