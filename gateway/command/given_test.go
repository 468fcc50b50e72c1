package command

import (
	"strings"
	"testing"

	"unproxy/gateway/config"
)

// The command that applies routes has the flags of the gateway that concern routes, and
// can be pasted into a shell.
func TestCommandLine(t *testing.T) {
	g := &given{values: config.Values{
		"forward":       {":25=127.0.0.1:25?mark=7&local=close", ":26=10.9.0.2:26"},
		"trust":         {"10.0.0.2"},
		"transparent":   {"true"},
		"trust-file":    {"/etc/it's here"},
		"recipe":        {"marks"},
		"log-level":     {"debug"},
		"drain-timeout": {"5s"},
		"admin":         {"127.0.0.1:9180"},
	}}
	const want = "unproxy routes apply --forward ':25=127.0.0.1:25?mark=7&local=close' --forward :26=10.9.0.2:26 --trust 10.0.0.2 --trust-file '/etc/it'\\''s here' --transparent=true --recipe marks"
	got := g.commandLine("routes apply")
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if words := strings.Fields(strings.ReplaceAll(got, "'", "")); missingValues(words) != nil {
		t.Errorf("%s lacks values", got)
	}
}
