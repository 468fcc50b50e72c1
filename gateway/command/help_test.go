package command

import (
	"strings"
	"testing"

	"unproxy/gateway/command/usage"
)

// The help of every command has an example and fits on a terminal.
func TestHelpOfEveryCommand(t *testing.T) {
	for _, c := range all() {
		args := append(strings.Fields(c.path), "--help")
		var out, errs strings.Builder
		if code := Main(args, strings.NewReader(""), &out, &errs); code != usage.ExitSuccess || errs.Len() > 0 {
			t.Errorf("%q: exit code %d: %s", args, code, errs.String())
		}
		help := out.String()
		if !strings.Contains(help, "\nExample") || !strings.Contains(help, "Usage: unproxy") {
			t.Errorf("%q has no example or no usage:\n%s", args, help)
		}
		if strings.Contains(help, "(default") {
			t.Errorf("%q has a default of the library:\n%s", args, help)
		}
		for _, line := range strings.Split(help, "\n") {
			if n := len([]rune(line)); n > usage.MaxColumn {
				t.Errorf("%q: line of %d columns: %s", args, n, line)
			}
		}
	}
}
