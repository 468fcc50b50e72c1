package main

import (
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"unproxy/scripts/bench/report"
)

func TestParse(t *testing.T) {
	o, err := parse("bench", strings.Fields("--mode plain --section bulk --section udp --match ^64 --rounds 3 --duration 1s --from a --from b --unproxy x --unproxy y --peer-headers"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds != 3 || o.duration != time.Second || !o.peer.headers || !matches(o.match, "64 B") ||
		matches(o.match, "4 KiB, 64") {
		t.Errorf("%+v", o)
	}
	for _, row := range []struct{ got, want []string }{
		{o.modes(), []string{plain}}, {o.sections, []string{"bulk", "udp"}}, {o.from, []string{"a", "b"}},
		{o.unproxy, []string{"x", "y"}},
	} {
		if !reflect.DeepEqual(row.got, row.want) {
			t.Errorf("%v, not %v", row.got, row.want)
		}
	}
}

func TestDefaults(t *testing.T) {
	o, err := parse("bench", nil, io.Discard)
	if err != nil || o.rounds < 5 || len(o.modes()) != 2 || !matches(o.only, "anything") {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = parse("bench", []string{"--quick"}, io.Discard); err != nil || o.rounds != 1 || o.duration > time.Second {
		t.Errorf("quick: %+v, %v", o, err)
	}
}

func TestParseRejectsInvalidOptions(t *testing.T) {
	for args, want := range map[string]string{
		"--mode none":     "not plain, transparent or both",
		"--section none":  "not one of pingpong",
		"--rounds 0":      "the minimum is 1",
		"--duration -1s":  "the minimum is 1",
		"--match (":       "missing closing",
		"pingpong":        "not a flag",
		"--no-such-thing": "not defined",
	} {
		if _, err := parse("bench", strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// What --help says of the ports is what programs are started with.
func TestHelpNamesPortsAndPlaceholders(t *testing.T) {
	var b strings.Builder
	parse("bench", []string{"--help"}, &b)
	for _, want := range []string{gatewayAddress.String(), backendAddress.String(), "{listen}", "{backend}", "{protocol}",
		"--peer-headers"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("help does not say %s", want)
		}
	}
}

func TestChooseSelectsRuns(t *testing.T) {
	var all []report.Run
	for _, mode := range []string{plain, transparent} {
		for _, section := range []string{"bulk", "udp"} {
			for _, program := range []string{report.Base, "nginx", "direct"} {
				all = append(all, report.Run{Mode: mode, Section: section, Row: section + " row", Program: program})
			}
		}
	}
	for args, want := range map[string]int{
		"": 12, "--mode plain": 6, "--section bulk": 6, "--match ^udp": 6, "--match none": 0, "--programs nginx": 8,
		"--mode plain --section udp --programs direct": 2,
	} {
		o, err := parse("bench", strings.Fields(args), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.choose(slices.Clone(all)); len(got) != want {
			t.Errorf("%s: %d runs, not %d", args, len(got), want)
		}
	}
}
