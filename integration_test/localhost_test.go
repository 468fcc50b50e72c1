package integration_test

import (
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// In plain mode every client is localhost to a server on the gateway's host. The
// start says so in one line, however many forwards there are, and only of those.
func TestStartWarnsOfServersThatSeeLocalhost(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			flags []string
			want  string // the start of the warning; "" is none
		}{
			{[]string{"--forward", "127.0.0.1:0=127.0.0.1:6379", "--forward", "127.0.0.2:2000-2099=[::1]:3000-3099",
				"--forward", "udp://127.0.0.1:0=localhost:53"},
				"forwards 127.0.0.1:0, 127.0.0.2:2000, udp://127.0.0.1:0: in plain mode, servers on this host see every client as localhost"},
			{[]string{"--forward", "127.0.0.1:0=127.0.0.1:6379", "--transparent", "--self-test-interval", "0"}, ""},
			{[]string{"--forward", "127.0.0.1:0=192.0.2.1:6379", "--forward", "127.0.0.1:0=unix:/run/x"}, ""},
		} {
			g := lab.StartGateway(t, append(tt.flags, "--trust", "127.0.0.1")...)
			g.WaitLog(t, "ready")
			var warnings []lab.Line
			for _, l := range g.Log() {
				if l.String("level") == "warn" {
					warnings = append(warnings, l)
				}
			}
			switch {
			case tt.want == "" && len(warnings) > 0, tt.want != "" && len(warnings) != 1:
				t.Errorf("%q: warnings %v", tt.flags, warnings)
			case tt.want != "" && (!strings.HasPrefix(warnings[0].String("message"), tt.want) || !strings.HasPrefix(warnings[0].String("hint"), "--transparent; or ")):
				t.Errorf("%q: %v, want %q", tt.flags, warnings[0], tt.want)
			}
		}
	})
}
