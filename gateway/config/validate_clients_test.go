package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"unproxy/gateway/forward"
)

// Rules of flags and files form one list; a key for either replaces both. An empty
// deny file must say so, and an allow file must have a rule.
func TestClientFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rules, comment, empty := file("rules", "198.51.100.0/24 # one\n"), file("comment", "# none\n"), file("empty", "")
	inFile, inFlag := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.7")
	for _, name := range []string{allowClientFlag, denyClientFlag} {
		set := func(f *forward.Forward) forward.Addresses { return f.AllowClient }
		if name == denyClientFlag {
			set = func(f *forward.Forward) forward.Addresses { return f.DenyClient }
		}
		f := mustLoad(t, ":1=127.0.0.1:2", name+" 203.0.113.0/24", name+"-file "+rules)
		if !set(f).Contains(inFile) || !set(f).Contains(inFlag) {
			t.Errorf("--%s and its file must form one list", name)
		}
		f = mustLoad(t, ":1=127.0.0.1:2?"+name+"-file="+rules, name+" 203.0.113.0/24")
		if !set(f).Contains(inFile) || set(f).Contains(inFlag) {
			t.Errorf("the key %s-file must replace the common rules", name)
		}
		if _, _, err := load([]string{":1=127.0.0.1:2"}, name+"-file "+empty); err == nil || !strings.Contains(err.Error(), "contains no rule") {
			t.Errorf("--%s-file without a line: %v", name, err)
		}
	}
	if f := mustLoad(t, ":1=127.0.0.1:2", "deny-client-file "+comment); f.DenyClient == nil || f.DenyClient.Contains(inFile) {
		t.Error("a comment alone is an empty list of denied clients")
	}
	for _, flag := range []string{"allow-client-file " + comment, "trust-file " + comment} {
		if _, _, err := load([]string{":1=127.0.0.1:2"}, flag); err == nil || !strings.Contains(err.Error(), "contains no rule") {
			t.Errorf("--%s: %v", flag, err)
		}
	}
}

func TestClientWarnings(t *testing.T) {
	many := make([]string, 13)
	for i := range many {
		many[i] = fmt.Sprintf("allow-client 203.0.113.%d", i)
	}
	for _, tt := range []struct {
		forward string
		flags   []string
		want    []string // parts of the warnings, in order
	}{
		{":1=127.0.0.1:2", []string{"allow-client 203.0.113.0/24", "deny-client 203.0.113.9"}, nil},
		{":1=127.0.0.1:2", []string{"allow-client 203.0.113.9", "deny-client 203.0.0.0/16"},
			[]string{`allow-client rule "203.0.113.9" (--allow-client) has no effect: deny-client rule "203.0.0.0/16" (--deny-client) covers it`}},
		{":1=127.0.0.1:2", []string{"allow-client 2001:db8::/48", "deny-client any"}, []string{`deny-client rule "any"`}},
		{":1=127.0.0.1:2", append(many, "deny-client 203.0.113.0/24"), append(slices.Repeat([]string{"has no effect"}, mostUseless), "forward :1: 3 more allow-client rules have no effect")},
		{":1=127.0.0.1:2", []string{"deny-client 203.0.0.0/16", "deny-client 203.0.113.9"}, []string{`"203.0.113.9" is redundant`}},
		{":1=127.0.0.1:2", []string{"deny-client any"}, nil},
		// A rule within another one has an effect if a direct rule, or a trust rule, lies between.
		{":1=127.0.0.1:2", []string{"trust 10.0.0.0/8", "trust 10.1.2.0/24"}, []string{`"10.1.2.0/24" is redundant: "10.0.0.0/8"`}},
		{":1=127.0.0.1:2", []string{"trust 10.0.0.0/8", "trust 10.1.2.0/24", "direct 10.1.0.0/16"}, nil},
		{":1=127.0.0.1:2", []string{"trust 10.0.0.0/8", "trust 10.1.2.0/24", "direct 10.1.2.4/30"}, []string{`"10.1.2.0/24" is redundant`}},
		{":1=127.0.0.1:2", []string{"trust 10.0.0.0/8", "trust 10.1.0.0/17", "trust 10.1.2.0/24", "direct 10.1.0.0/16"},
			[]string{`"10.1.2.0/24" is redundant: "10.1.0.0/17"`}},
		{":1=127.0.0.1:2", []string{"trust 192.0.2.0/25", "direct 192.0.0.0/16", "direct 192.0.2.7"}, nil},
		{":1=127.0.0.1:2", []string{"trust 10.0.0.0/8", "direct 192.0.0.0/16", "direct 192.0.2.7"}, []string{`"192.0.2.7" is redundant: "192.0.0.0/16"`}},
		{":1=127.0.0.1:2", []string{"direct 10.1.0.0/16"}, nil}, // within the trust rule 10.0.0.0/8
		{":1=127.0.0.1:2", []string{"direct 192.0.2.0/24", "health-source 192.0.2.7"}, []string{`health source "192.0.2.7" overlaps direct rule "192.0.2.0/24"`}},
		{":1=127.0.0.1:2", []string{"direct 192.0.2.0/24", "untrusted pass"}, []string{"--direct matters only within trust rules"}},
		{"unix:/run/a=127.0.0.1:2", []string{"direct 192.0.2.0/24"}, []string{"--direct has no effect"}},
		{"unix:/run/a=127.0.0.1:2", []string{"direct 192.0.2.0/24", "untrusted pass"}, []string{"--direct has no effect"}},
		{":1=127.0.0.1:2", []string{"untrusted pass"}, nil},
		{":1=127.0.0.1:2", []string{"untrusted pass", "direct 10.1.0.0/16", "trust 10.0.0.0/8"}, []string{"--direct matters only within trust rules"}},
		{":1=127.0.0.1:2", append(slices.Clone(many[:10]), "deny-client 203.0.113.0/24"), slices.Repeat([]string{"has no effect"}, 10)},
		{":1=127.0.0.1:2", append(slices.Clone(many[:11]), "deny-client 203.0.113.0/24"),
			append(slices.Repeat([]string{"has no effect"}, 10), "forward :1: 1 more allow-client rules have no effect")},
		{"unix:/run/a=127.0.0.1:2?direct=192.0.2.0/24", nil, []string{"forward unix:/run/a: direct has no effect for a unix listener"}},
		{":1=127.0.0.1:2 unix:/run/a=127.0.0.1:2", []string{"direct 192.0.2.0/24"}, nil}, // of use to one of them
	} {
		_, warnings, err := load(strings.Fields(tt.forward), tt.flags...)
		if err != nil || len(warnings) != len(tt.want) {
			t.Errorf("%s %q: %v, %v; want %q", tt.forward, tt.flags, warnings, err, tt.want)
			continue
		}
		for i, want := range tt.want {
			if !strings.Contains(warnings[i].Message, want) {
				t.Errorf("%s %q: %q; want %q", tt.forward, tt.flags, warnings[i].Message, want)
			}
		}
	}
	if _, _, err := load([]string{":1=127.0.0.1:2"}, "direct 10.0.0.0/8"); err == nil ||
		!strings.Contains(err.Error(), `"10.0.0.0/8" is both a direct rule and a trust rule`) {
		t.Errorf("one prefix that is direct and trusted: %v", err)
	}
}

// A list that forwards share is judged once: a rule that any of them needs is not redundant,
// whatever their order. After a reload it is judged again.
func TestRedundantInSomeForwards(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trust")
	write := func(rule string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("10.0.0.0/8\n"+rule+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("10.1.2.0/24")
	needs, other := ":1=127.0.0.1:2?direct=10.1.0.0/16", ":2=127.0.0.1:3"
	var lists *Lists
	for _, forwards := range [][]string{{needs, other}, {other, needs}} {
		c, warnings, err := load(forwards, "trust-file "+file)
		if err != nil || len(warnings) != 0 {
			t.Fatalf("%q: %v, %v", forwards, warnings, err)
		}
		lists = c.Lists
	}
	write("10.2.2.0/24")
	done, err := lists.Reload()
	if err != nil || len(done.Warnings) != 1 || !strings.Contains(done.Warnings[0].Message, `"10.2.2.0/24" is redundant`) {
		t.Errorf("without a rule between: %v, %v", done.Warnings, err)
	}
}

// Warnings of trust rules are about trust, those of other lists are not.
func TestSubjectOfWarnings(t *testing.T) {
	for given, want := range map[string]Topic{
		"trust any": AboutTrust, "trust 10.0.0.0/8 10.1.0.0/16": AboutTrust, "deny-client 10.0.0.0/8 10.1.0.0/16": AboutSettings,
		"allow-client 10.0.0.0/8 10.1.0.0/16": AboutSettings, "health-source 10.1.0.0/16": AboutSettings,
	} {
		name, rules, _ := strings.Cut(given, " ")
		var flags []string
		for _, rule := range strings.Fields(rules) {
			flags = append(flags, name+" "+rule)
		}
		_, warnings, err := load([]string{":1=127.0.0.1:2"}, flags...)
		if err != nil || len(warnings) != 1 || warnings[0].About != want {
			t.Errorf("--%s: %+v, %v; want one about %d", given, warnings, err, want)
		}
	}
}

// The more specific prefix says whether a peer sends a header.
func TestDirectWithinTrust(t *testing.T) {
	f := mustLoad(t, ":1=127.0.0.1:2", "trust 10.0.0.0/8", "trust 192.0.2.7", "direct 10.1.0.0/16", "direct 192.0.2.0/24")
	for peer, want := range map[string]bool{
		"10.1.2.3": true, "10.2.2.3": false, "192.0.2.7": false, "192.0.2.8": true, "198.51.100.1": false, "2001:db8::1": false,
	} {
		if got := f.IsDirect(netip.MustParseAddr(peer)); got != want {
			t.Errorf("%s is direct: %v, want %v", peer, got, want)
		}
	}
	if mustLoad(t, ":1=127.0.0.1:2").IsDirect(netip.MustParseAddr("10.1.2.3")) {
		t.Error("a peer is direct without a rule")
	}
}
