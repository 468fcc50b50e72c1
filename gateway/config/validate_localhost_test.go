package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// localhostSubjects returns what the warnings of clients that appear as localhost begin with.
func localhostSubjects(t *testing.T, forwards []string, given ...string) (all []string) {
	t.Helper()
	c, _, err := load(forwards, given...)
	if err != nil {
		t.Fatalf("%q: %v", forwards, err)
	}
	for _, w := range c.LocalhostWarnings() {
		subject, what, _ := strings.Cut(w.Message, ": ")
		if w.About != AboutLocalhost || !strings.Contains(w.Hint, "SECURITY.md") || !strings.HasSuffix(what, "to localhost") {
			t.Errorf("%q: %+v", forwards, w)
		}
		if strings.Contains(what, "--family-mismatch plain") {
			subject += ", mismatched"
		}
		all = append(all, subject)
	}
	return all
}

// A backend on this host sees clients as localhost if they come from the gateway's address:
// all of them in plain mode, those of the other family with --family-mismatch plain.
func TestLocalhostWarnings(t *testing.T) {
	for _, tt := range []struct {
		forward string
		given   []string
		want    []string
	}{
		{":1=127.0.0.1:2", nil, []string{"forward :1"}},
		{":1=127.255.0.1:2", nil, []string{"forward :1"}},
		{":1=[::1]:2", nil, []string{"forward :1"}},
		{":1=localhost:2", nil, []string{"forward :1"}},
		{":1=LocalHost.:2", nil, []string{"forward :1"}},
		{":1=db.localhost:2", nil, []string{"forward :1"}},
		{":1=ip6-localhost:2", nil, []string{"forward :1"}},
		{":1=ip6-loopback:2", nil, []string{"forward :1"}},
		{":1=10.0.0.1:2,127.0.0.1:2", nil, []string{"forward :1"}},
		{"udp://:1=127.0.0.1:2", nil, []string{"forward udp://:1"}},
		{":1=header?allow-destination=127.5.0.0/16", nil, []string{"forward :1"}},
		{":1=header?allow-destination=127.200.0.0/16", nil, []string{"forward :1"}},
		{":1=header?allow-destination=126.0.0.0/7", nil, []string{"forward :1"}},
		{":1=header?allow-destination=::1", nil, []string{"forward :1"}},
		{":1=header?allow-destination=::/0", nil, []string{"forward :1"}},
		{":1=127.0.0.1:2", []string{"transparent on", "family-mismatch plain"}, []string{"forward :1, mismatched"}},

		{":1=10.0.0.1:2", nil, nil},
		{":1=126.0.0.1:2", nil, nil},
		{":1=128.0.0.1:2", nil, nil},
		{":1=[::2]:2", nil, nil},
		{":1=localhost.example:2", nil, nil},
		{":1=mylocalhost:2", nil, nil},
		{":1=unix:/run/s", nil, nil},
		{":1=header?allow-destination=126.0.0.0/8", nil, nil},
		{":1=header?allow-destination=128.0.0.0/8", nil, nil},
		{":1=header?allow-destination=::2", nil, nil},
		{":1=10.0.0.1:2?allow-destination=127.0.0.1", nil, nil}, // no header names it
		{":1=127.0.0.1:2", []string{"transparent on"}, nil},
		{":1=127.0.0.1:2", []string{"transparent on", "family-mismatch map"}, nil},
		{":1=10.0.0.1:2", []string{"transparent on", "family-mismatch plain"}, nil},
	} {
		if got := localhostSubjects(t, []string{tt.forward}, tt.given...); !slices.Equal(got, tt.want) {
			t.Errorf("%s %q: %q; want %q", tt.forward, tt.given, got, tt.want)
		}
	}
}

// One warning of each kind names the first five forwards.
func TestLocalhostWarningsOfMany(t *testing.T) {
	var forwards []string
	want := map[int]string{
		1: "forward :1", 2: "forwards :1, :2", 5: "forwards :1, :2, :3, :4, :5",
		6: "forwards :1, :2, :3, :4, :5 and 1 more", 8: "forwards :1, :2, :3, :4, :5 and 3 more",
	}
	for i := 1; i <= 8; i++ {
		forwards = append(forwards, fmt.Sprintf(":%d=127.0.0.1:99", i))
		if got := localhostSubjects(t, forwards); want[i] != "" && !slices.Equal(got, []string{want[i]}) {
			t.Errorf("%d forwards: %q; want %q", i, got, want[i])
		}
	}
	both := []string{":1=127.0.0.1:9", ":2=10.0.0.1:9", ":3=127.0.0.1:9?transparent&family-mismatch=plain", ":4=[::1]:9"}
	if got := localhostSubjects(t, both); !slices.Equal(got, []string{"forwards :1, :4", "forward :3, mismatched"}) {
		t.Errorf("both kinds: %q", got)
	}
}
