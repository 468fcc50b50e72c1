package trust

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestPresets(t *testing.T) {
	presets := Presets()
	for _, name := range strings.Fields("alibaba-clb azure-probe cloudflare fastly gcp-lb huawei-elb linode loopback ovh-iplb rfc1918 rfc4193 rfc6598 rfc6890") {
		if p, ok := FindPreset(name); !ok || p.Name != name || len(p.Prefixes) == 0 {
			t.Errorf("no preset %s: %+v", name, p)
		}
	}
	if p, ok := FindPreset("nobody"); ok {
		t.Errorf("a preset of nobody: %+v", p)
	}
	for i, p := range presets {
		if i > 0 && presets[i-1].Name >= p.Name {
			t.Errorf("preset %s comes after %s", p.Name, presets[i-1].Name)
		}
		if _, err := time.Parse("2006-01-02", p.Date); err != nil {
			if _, err := time.Parse("2006-01", p.Date); err != nil {
				t.Errorf("preset %s: date %q", p.Name, p.Date)
			}
		}
		if p.Source == "" || p.Status == "" || p.Warning == "" || len(p.Prefixes) == 0 {
			t.Errorf("preset %s lacks a source, a status, a warning or prefixes: %+v", p.Name, p)
		}
		seen := make(map[netip.Prefix]bool)
		for _, prefix := range p.Prefixes {
			if prefix != prefix.Masked() || prefix.Addr().Is4In6() || prefix.Bits() < 4 || seen[prefix] {
				t.Errorf("preset %s: %v is not canonical, too wide or duplicate", p.Name, prefix)
			}
			seen[prefix] = true
		}
	}
}

// Each row is an address and whether the preset contains it according to the
// provider's documentation or the standard.
func TestPresetsContain(t *testing.T) {
	tests := []struct {
		preset, addr string
		want         bool
	}{
		{"cloudflare", "173.245.48.9", true},
		{"cloudflare", "2606:4700::6810:84e5", true},
		{"cloudflare", "8.8.8.8", false},
		{"gcp-lb", "35.191.10.1", true},
		{"gcp-lb", "130.211.3.255", true},
		{"gcp-lb", "130.211.4.0", false},
		{"azure-probe", "168.63.129.16", true},
		{"azure-probe", "168.63.129.17", false},
		{"rfc1918", "172.31.255.255", true},
		{"rfc1918", "172.32.0.0", false},
		{"rfc4193", "fd00::1", true},
		{"rfc6598", "100.127.255.255", true},
		{"loopback", "127.1.2.3", true},
		{"loopback", "::1", true},
		// go-sockaddr lists 0.0.0.0/8 as well as 127.0.0.0/8 for RFC 1122, and
		// more than ::1 for RFC 4291.
		{"loopback", "0.0.0.1", false},
		{"loopback", "::2", false},
		{"loopback", "fe80::1", false},
		{"rfc6890", "10.1.2.3", true},
		{"rfc6890", "2001:1ff::1", true},
		{"rfc6890", "2001:200::1", false},
		// go-sockaddr lists 2001::/16 for RFC 6890's 2001::/23; this public
		// resolver is only in the former.
		{"rfc6890", "2001:4860:4860::8888", false},
		// RFC 6890's ::ffff:0:0/96 would match all of IPv4.
		{"rfc6890", "8.8.8.8", false},
		{"rfc6890", "::ffff:8.8.8.8", false},
	}
	for _, tt := range tests {
		set, _, err := loadRules(tt.preset)
		if err != nil {
			t.Fatal(err)
		}
		if got := set.Contains(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("preset %s contains %s: %v, want %v", tt.preset, tt.addr, got, tt.want)
		}
	}
}

func TestPresetNote(t *testing.T) {
	for rule, want := range map[string]string{
		"cloudflare": "preset of 2026-08-22", "rfc1918": "RFC 1918",
		"10.0.0.0/8": "",
	} {
		set, _, err := loadRules(rule)
		if err != nil || set.Rules()[0].Note != want {
			t.Errorf("rule %s: note %q, %v; want %q", rule, set.Rules()[0].Note, err, want)
		}
	}
}

func TestParsePresetRejects(t *testing.T) {
	const head = "# date: 2026-01-01\n# source: a page\n# status: confirmed\n# shared: no\n# warning: a\n#   b\n"
	if p, err := parsePreset("x", head+"10.0.0.0/8\n"); err != nil || p.Warning != "a b" || p.Shared {
		t.Errorf("parsePreset = %+v, %v", p, err)
	}
	for name, text := range map[string]string{
		"host bits":      head + "10.0.0.1/8\n",
		"4-in-6":         head + "::ffff:10.0.0.0/104\n",
		"no prefix":      head,
		"no date":        "# source: a page\n# status: confirmed\n# shared: no\n10.0.0.0/8\n",
		"unknown key":    head + "# colour: blue\n10.0.0.0/8\n",
		"shared unclear": strings.Replace(head, "no", "perhaps", 1) + "10.0.0.0/8\n",
	} {
		if p, err := parsePreset("x", text); err == nil {
			t.Errorf("%s: parsePreset = %+v, want an error", name, p)
		}
	}
	for text, want := range map[string]string{
		head + "10.0.0.1/8\n":               "x.txt:7: ",
		head + "\n10.0.0.0/8\n# a: b\n":     "x.txt:9: ",
		"# colour: blue\n" + "10.0.0.0/8\n": "x.txt:1: ",
	} {
		if _, err := parsePreset("x", text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
