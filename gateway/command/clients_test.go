package command

import (
	"strings"
	"testing"

	"unproxy/gateway/command/usage"
)

func TestClientsExplainMistakes(t *testing.T) {
	for _, tt := range []struct{ args, want, hint string }{
		{"", "no address", "write unproxy clients explain --deny-client RULE ADDRESS"},
		{"lb", `"lb" is not an address`, "write an IPv4 or IPv6 address"},
		{"10.0.0.1:80", `"10.0.0.1:80" is not an address`, "write 10.0.0.1: rules are about the address alone"},
	} {
		args := append([]string{"clients", "explain", "--deny-client", "any"}, strings.Fields(tt.args)...)
		out, errs, exit := run(t, args...)
		problem, hint, _ := strings.Cut(errs, "\nunproxy: hint: ")
		if out != "" || exit != usage.ExitUsage || !strings.Contains(problem, tt.want) || !strings.Contains(hint, tt.hint) {
			t.Errorf("%q: %q, %q, exit code %d; want %q with the hint %q", args, out, errs, exit, tt.want, tt.hint)
		}
	}
}
