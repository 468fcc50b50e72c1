package config

import (
	"errors"
	"os"
	"strings"
	"testing"

	"unproxy/gateway/config/value"
)

// The lowest and the highest value of each number, size, rate and duration are accepted, and
// the ones beside them are not. The hint is accepted itself.
func TestBounds(t *testing.T) {
	for _, tt := range []struct {
		setting           string
		accepted, refused []string
		hint              string // of each that is refused
	}{
		{"max-header", []string{"52", "16KiB", "65534", "65535", "1MiB"}, []string{"51", "0"}, "16KiB"},
		{"max-header", nil, []string{"x", "16x", "-1", "1025GiB"}, ""},
		{"headers", []string{"1", "16"}, []string{"17"}, ""},
		{"headers", nil, []string{"0"}, "1"},
		{"accept-rate", []string{"0", "1", "100000", "1/1", "100000/100000"}, []string{"100001", "-1", "", "x/1"}, "100/200"},
		{"accept-rate", nil, []string{"5/100001", "5/0", "5/x", "5/"}, "5/5"},
		{"accept-rate", nil, []string{"0/1", "0/5"}, "1/1"},
		{"udp-idle-timeout", []string{"1ms", "87600h"}, []string{"999us"}, "1ms"},
		{"udp-idle-timeout", nil, []string{"0", "off"}, "60s"},
		{"udp-idle-timeout", nil, []string{"87600h1ns"}, "87600h0m0s"},
		{"loops", []string{"1", "1024"}, []string{"1025"}, ""},
		{"loops", nil, []string{"0"}, "1"},
		{"max-buffer", []string{"off", "0", "1MiB", "1024GiB"}, []string{"1048575", "1"}, "1MiB"},
		{"upgrade-timeout", []string{"100ms", "87600h"}, []string{"99999us"}, "100ms"},
		{"upgrade-timeout", nil, []string{"0"}, "30s"},
		{"route-table", []string{"1", "252", "256", "4294967295"}, []string{"0", "253", "254", "255"}, "7700"},
		{"route-table", nil, []string{"4294967296", "x"}, ""},
		{"rule-preference", []string{"1", "32764"}, []string{"0", "32765", "32766", "4294967295"}, "7700"},
		{"rule-preference", nil, []string{"4294967296", "x"}, ""},
		{"route-mark", []string{"1", "4294967293"}, []string{"0"}, "7700"},
		{"route-mark", nil, []string{"4294967294", "x"}, ""},
		{"mark", []string{"0", "off", "1", "0xffffffff"}, []string{"4294967296"}, ""},
		{"udp-max-flows", []string{"0", "2147483647"}, []string{"2147483648"}, ""},
		{"max-connections", []string{"0", "2147483647"}, []string{"2147483648"}, ""},
		{"max-connections-per-client", []string{"0", "2147483647"}, []string{"2147483648"}, ""},
		{"max-waiting", []string{"0", "2147483647"}, []string{"2147483648"}, ""},
		{"header-timeout", []string{"0", "1ms", "24h"}, []string{"999us"}, "1ms"},
		{"header-timeout", nil, []string{"24h0m0.001s"}, "24h0m0s"},
		{"connect-timeout", []string{"0", "1ms", "24h"}, []string{"999us"}, "1ms"},
		{"connect-timeout", nil, []string{"24h0m0.001s"}, "24h0m0s"},
		{"backend-check", []string{"0", "100ms", "24h"}, []string{"99999us"}, "100ms"},
		{"backend-check", nil, []string{"24h0m0.001s"}, "24h0m0s"},
		{"backend-retry", []string{"0", "1ms", "24h"}, []string{"999us"}, "1ms"},
		{"backend-retry", nil, []string{"24h0m0.001s"}, "24h0m0s"},
		{"idle-timeout", []string{"0", "1ms", "87600h"}, []string{"999us"}, "1ms"},
		{"idle-timeout", nil, []string{"87600h1ns"}, "87600h0m0s"},
		{"keepalive", []string{"0", "1s", "32767s"}, []string{"999ms"}, "1s"},
		{"keepalive", nil, []string{"32767.001s"}, "9h6m7s"},
		{"user-timeout", nil, []string{"2147483648ms"}, "596h31m23.647s"},
		{"user-timeout", []string{"0", "1ms", "2147483647ms"}, []string{"999us"}, "1ms"},
		{"spin", []string{"0", "1us", "10ms"}, []string{"999ns"}, "1µs"},
		{"spin", nil, []string{"10001us"}, "10ms"},
		{"drain-delay", []string{"0", "1ms", "87600h"}, []string{"999us"}, "1ms"},
		{"drain-timeout", []string{"0", "1ms", "87600h"}, []string{"999us"}, "1ms"},
		{"self-test-interval", []string{"0", "1s", "87600h"}, []string{"999ms"}, "1s"},
		{"reload-interval", []string{"0", "100ms", "87600h"}, []string{"99999us"}, "100ms"},
		{"socket-mode", []string{"0", "0777"}, []string{"01000", "8"}, "0660"},
	} {
		s := Find(tt.setting)
		for _, text := range tt.accepted {
			if _, _, err := bind(s, text); err != nil {
				t.Errorf("--%s %s: %v; want it accepted", tt.setting, text, err)
			}
		}
		for _, text := range tt.refused {
			_, _, err := bind(s, text)
			e, ok := errors.AsType[*value.Error](err)
			if !ok || e.Hint != tt.hint {
				t.Errorf("--%s %s: %#v; want an error with the hint %q", tt.setting, text, err, tt.hint)
			}
		}
		if tt.hint == "" {
			continue
		}
		if _, _, err := bind(s, tt.hint); err != nil {
			t.Errorf("--%s %s, which is a hint: %v", tt.setting, tt.hint, err)
		}
	}
}

// A limit of headers that none reaches is that of the longest header there is.
func TestMaxHeaderOfTheLongestHeader(t *testing.T) {
	for text, want := range map[string]int{"65534": 65534, "65535": 65551, "65551": 65551, "65552": 65551} {
		if got := mustLoad(t, ":1=127.0.0.1:2", "max-header "+text).Header.MaxLength; got != want {
			t.Errorf("--max-header %s: %d bytes; want %d", text, got, want)
		}
	}
}

// The versions may be written in any order and with spaces.
func TestAcceptedVersions(t *testing.T) {
	for text, want := range map[string][2]bool{
		"v1": {true, false}, "v2": {false, true}, "v1,v2": {true, true}, "v2, v1": {true, true}, " v1 ": {true, false}, "v2,v2": {false, true},
	} {
		h := mustLoad(t, ":1=127.0.0.1:2", "accept "+text).Header
		if got := [2]bool{!h.RefuseV1, !h.RefuseV2}; got != want {
			t.Errorf("--accept %q: v1 and v2 accepted: %v; want %v", text, got, want)
		}
	}
	for _, text := range []string{"v1,", ",v2", "v1;v2", "v3", "v1,v3"} {
		if _, _, err := load([]string{":1=127.0.0.1:2"}, "accept "+text); err == nil {
			t.Errorf("--accept %q is accepted", text)
		}
	}
}

// The paths of a process do not depend on where it is started, and the "-" of optional
// environment files is no part of the path.
func TestPaths(t *testing.T) {
	t.Chdir(t.TempDir())
	c, _, err := load([]string{":1=127.0.0.1:2"}, "ban-file bans", "env-file -/a", "env-file /b", "env-file --c")
	if err != nil {
		t.Fatal(err)
	}
	if p := c.Bans.Path(); !strings.HasPrefix(p, "/") || !strings.HasSuffix(p, "/bans") {
		t.Errorf("ban file %q; want its absolute path", p)
	}
	if got := strings.Join(c.EnvFiles, " "); got != "/a /b -c" {
		t.Errorf("environment files %q", got)
	}
}

// Where a relative path leads is not known in a directory that is gone.
func TestBanFileInADirectoryThatIsGone(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, _, err := load([]string{":1=127.0.0.1:2"}, "ban-file bans"); err == nil || !strings.HasPrefix(err.Error(), `--ban-file "bans" `) {
		t.Errorf("%v", err)
	}
}

// The message of a preference names the bounds.
func TestPreferenceMessage(t *testing.T) {
	_, _, err := bind(Find("rule-preference"), "32766")
	if err == nil || err.Error() != "is not between 1 and 32764, before the table main" {
		t.Errorf("%v", err)
	}
}
