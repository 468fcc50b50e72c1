package trust

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// loadRules loads rules as if they were values of --trust.
func loadRules(rules ...string) (*Set, []Warning, error) {
	return Load(Source{Rules: rules, Flag: "--trust"})
}

// A misspelled preset is suggested, by whatever finds the nearest name; without that, and
// for a word that is near to none, the presets are listed.
func TestUnknownRuleSuggests(t *testing.T) {
	near := func(word string, names []string) string {
		if word == "cloudflrae" && slices.Contains(names, "cloudflare") && slices.Contains(names, Any) {
			return "cloudflare"
		}
		return ""
	}
	for _, row := range []struct {
		rule    string
		nearest func(string, []string) string
		want    string
	}{
		{"cloudflrae", near, "did you mean cloudflare?"},
		{"CloudFlrae", near, "did you mean cloudflare?"},
		{"Cloudflare", near, "write cloudflare"},
		{"cloudflrae", nil, "or one of "},
		{"something", near, "or one of "},
	} {
		_, _, err := Load(Source{Rules: []string{row.rule}, Nearest: row.nearest})
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Hint(), row.want) {
			t.Errorf("%s: %v, want the hint %q", row.rule, err, row.want)
		}
	}
}

// The presets are listed from the first to the last; "any" is not offered.
func TestUnknownRuleListsPresets(t *testing.T) {
	var names []string
	for _, p := range Presets() {
		names = append(names, p.Name)
	}
	_, _, err := loadRules("something")
	var e *Error
	if !errors.As(err, &e) || !strings.HasSuffix(e.Hint(), "or one of "+strings.Join(names, ", ")) {
		t.Errorf("%v: %s", err, e.Hint())
	}
}

func TestRuleAccepted(t *testing.T) {
	tests := []struct{ name, rule, want string }{
		{"prefix", "10.0.0.0/8", "10.0.0.0/8"},
		{"IPv6 prefix", "2001:db8::/32", "2001:db8::/32"},
		{"address", "10.0.0.1", "10.0.0.1/32"},
		{"IPv6 address", "2001:DB8::1", "2001:db8::1/128"},
		{"all of IPv6", "::/0", "::/0"},
		{"all of IPv4", "0.0.0.0/0", "0.0.0.0/0"},
		{"full length", "2001:db8::1/128", "2001:db8::1/128"},
		{"full length, 4-in-6", "::ffff:10.0.0.1/128", "10.0.0.1/32"},
		{"4-in-6 address", "::ffff:10.0.0.1", "10.0.0.1/32"},
		{"4-in-6 prefix", "::ffff:10.0.0.0/104", "10.0.0.0/8"},
		{"4-in-6, the whole range", "::ffff:0.0.0.0/96", "0.0.0.0/0"},
		{"4-in-6 in hexadecimal", "::ffff:a00:0/104", "10.0.0.0/8"},
		{"any", "any", "0.0.0.0/0 ::/0"},
		{"preset", "rfc1918", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"},
		{"preset of both families", "loopback", "127.0.0.0/8 ::1/128"},
		{"list, for an environment variable", "10.0.0.0/8, rfc4193 192.0.2.1", "10.0.0.0/8 fc00::/7 192.0.2.1/32"},
		// go-sockaddr writes an interface's address with the length of its network.
		{"template of a prefix", `{{ printf "%s/%d" "10.0.0.5" 24 }}`, "10.0.0.0/24"},
		{"template of a list", `{{ "10.0.0.1, 10.0.0.2 2001:db8::1" }}`, "10.0.0.1/32 10.0.0.2/32 2001:db8::1/128"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set, _, err := loadRules(tt.rule)
			if err != nil {
				t.Fatalf("rule %q: %v", tt.rule, err)
			}
			var got []string
			for _, r := range set.Rules() {
				got = append(got, r.Prefix.String())
				if r.Origin != "--trust" {
					t.Errorf("rule %q: origin %q, want --trust", tt.rule, r.Origin)
				}
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("rule %q = %v, want %s", tt.rule, got, tt.want)
			}
		})
	}
}

func TestRuleRejected(t *testing.T) {
	tests := []struct{ name, rule, problem, hint string }{
		{"empty", "", "empty rule", "10.0.0.0/8"},
		{"blank", " \t", "empty rule", "10.0.0.0/8"},
		// go-sockaddr v1.0.7 ignores a port.
		{"port", "10.0.0.1:80", "contains a port", "write 10.0.0.1:"},
		{"IPv6 with a port", "[2001:db8::1]:80", "contains a port", "write 2001:db8::1:"},
		{"prefix with a port", "10.0.0.0:80/8", "contains a port", ""},
		// CVE-2026-90711: a 4-in-6 prefix read as one of IPv4 with that length.
		{"short 4-in-6", "::ffff:10.0.0.0/8", "wider than ::ffff:0:0/96", "10.0.0.0/32"},
		{"4-in-6, one bit short", "::ffff:10.0.0.0/95", "wider than ::ffff:0:0/96", ""},
		{"zone", "fe80::1%eth0", "contains a zone", "not link-local"},
		{"zone and length", "fe80::%eth0/64", "contains a zone", ""},
		{"host bits", "10.0.0.1/8", "host bits set", "write 10.0.0.0/8 for the network or 10.0.0.1/32"},
		{"host bits of IPv6", "2001:db8::1/32", "host bits set", "write 2001:db8::/32 for the network or 2001:db8::1/128"},
		{"host bits of 4-in-6", "::ffff:10.0.0.1/104", "host bits set", "write 10.0.0.0/8"},
		{"netmask", "10.0.0.0/255.255.0.0", "prefix length", "write 10.0.0.0/16"},
		{"netmask with holes", "10.0.0.0/255.0.255.0", "prefix length", ""},
		// go-sockaddr v1.0.7 ignores this mask, which leaves a single address.
		{"hexadecimal mask", "10.0.0.0/ff000000", "prefix length", ""},
		{"inverted hexadecimal mask", "10.0.0.0/00ffffff", "prefix length", ""},
		{"too many bits", "10.0.0.0/33", "length above 32", ""},
		{"too many bits of IPv6", "2001:db8::/129", "length above 128", ""},
		{"negative bits", "10.0.0.0/-1", "prefix length", ""},
		{"leading zero in the bits", "10.0.0.0/08", "prefix length", ""},
		{"no length", "10.0.0.0/", "prefix length", ""},
		{"two lengths", "10.0.0.0/8/8", "prefix length", ""},
		{"short form", "10/8", "not a prefix", "four numbers"},
		// inet_aton(3) reads a leading zero as octal: 8.0.0.1, others 10.0.0.1.
		{"leading zero", "010.0.0.1", "not a prefix", "leading zeros"},
		{"one number", "167772160", "not a prefix", ""},
		{"brackets", "[2001:db8::1]", "not a prefix", "without brackets"},
		{"range", "10.0.0.1-10.0.0.9", "not a prefix", "one or more prefixes"},
		{"brackets around a name", "[lb.example.com]", "not a prefix", "names are not resolved"},
		{"range to a name", "10.0.0.1-lb.example.com", "not a prefix", "names are not resolved"},
		{"range from a name", "lb-10.0.0.9", "not a prefix", "names are not resolved"},
		{"name", "lb.example.com", "not a prefix", "names are not resolved"},
		{"name with a port", "localhost:80", "not a prefix", ""},
		{"unknown preset", "akamai", "not a prefix, an address or a preset", "cloudflare"},
		{"preset in capitals", "CloudFlare", "not a prefix", "write cloudflare"},
		{"any in capitals", "ANY", "not a prefix", "write any"},
		{"any with a length", "any/0", "not a prefix", ""},
		{"wildcard", "*", "not a prefix", ""},
		{"broken template", "{{ GetNothing }}", "template", ""},
		{"open template", "{{ GetPrivateIP", "template", ""},
		{"template without a value", `{{ "" }}`, "matches no address", "prefix itself"},
		{"template of a port", `{{ "10.0.0.1:80" }}`, "its value", "write 10.0.0.1:"},
		{"template of a name", `{{ "any" }}`, "its value", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set, _, err := loadRules(tt.rule)
			var e *Error
			if set != nil || !errors.As(err, &e) {
				t.Fatalf("rule %q = %v, %v; want an error", tt.rule, set.Rules(), err)
			}
			if !strings.Contains(e.Problem, tt.problem) || !strings.Contains(e.Hint(), tt.hint) || e.Origin != "--trust" {
				t.Errorf("rule %q: %v (%s), want %q with the hint %q", tt.rule, e, e.Hint(), tt.problem, tt.hint)
			}
		})
	}
}

// go-sockaddr resolves names. A lookup would delay the start and let the name
// server decide which peers are trusted.
func TestRuleDoesNotResolveNames(t *testing.T) {
	before := net.DefaultResolver
	defer func() { net.DefaultResolver = before }()
	net.DefaultResolver = &net.Resolver{PreferGo: true,
		Dial: func(_ context.Context, network, address string) (net.Conn, error) {
			t.Errorf("DNS query to %s %s", network, address)
			return nil, errors.New("no network in tests")
		}}
	for _, rule := range []string{
		"lb.example.com", "lb.example.com:80", "lb:80", "abc:http", "cafe.be:80",
		"[lb.example.com]:80", ":80", "10.0.0.1:http",
	} {
		if set, _, err := loadRules(rule); err == nil {
			t.Errorf("rule %q = %v, want an error", rule, set.Rules())
		}
	}
}

func TestRuleWarnings(t *testing.T) {
	tests := []struct {
		name, want string
		rules      []string
	}{
		{"any", "trusts every host", []string{"any"}},
		{"all of IPv4", "wider than any single network", []string{"0.0.0.0/0"}},
		{"half of IPv4 as 4-in-6", "wider than any single network", []string{"::ffff:0:0/97"}},
		{"/7 is too wide", "wider than any single network", []string{"10.0.0.0/7"}},
		{"/8 is not", "", []string{"10.0.0.0/8"}},
		{"IPv6 /15 is too wide", "wider than any single network", []string{"2000::/15"}},
		{"IPv6 /16 is not", "", []string{"2001::/16"}},
		{"template", "wider than any single network", []string{`{{ "0.0.0.0/0" }}`}},
		{"shared preset", "every customer", []string{"cloudflare"}},
		{"standard", "private IPv4", []string{"rfc1918"}},
		{"twice", `is redundant: "10.0.0.0/8" (--trust)`, []string{"10.0.0.0/8", "10.0.0.0/8"}},
		{"covered by a later one", `"10.1.0.0/16" is redundant: "10.0.0.0/8"`, []string{"10.1.0.0/16", "10.0.0.0/8"}},
		{"preset covered", `"rfc1918" is redundant: "any"`, []string{"rfc1918", "any"}},
		{"preset covered by two rules", `"loopback" is redundant: "127.0.0.0/8"`,
			[]string{"127.0.0.0/8", "::/8", "loopback"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := loadRules(tt.rules...)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, w := range warnings {
				all = append(all, w.String())
			}
			got := strings.Join(all, "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("%q: warnings %q, want %q", tt.rules, got, tt.want)
			}
		})
	}
	// A preset whose prefixes overlap, and one that another rule covers in part.
	for _, rules := range [][]string{{"rfc6890"}, {"10.0.0.0/8", "rfc1918"}} {
		_, warnings, _ := loadRules(rules...)
		for _, w := range warnings {
			if strings.Contains(w.Message, "redundant") {
				t.Errorf("%q: warning %v", rules, w)
			}
		}
	}
}

func TestRepeatsAreLimited(t *testing.T) {
	rules := []string{"10.0.0.0/8"}
	if maxRepeats != 10 {
		t.Errorf("the limit is %d", maxRepeats)
	}
	for range maxRepeats + 5 {
		rules = append(rules, "10.1.0.0/16")
	}
	_, warnings, err := loadRules(rules...)
	if err != nil || len(warnings) != maxRepeats || !strings.Contains(warnings[maxRepeats-1].Message, "5 more rules") {
		t.Errorf("%d warnings, %v; want %d, the last with a count of 5 more: %v", len(warnings), err, maxRepeats, warnings)
	}
}

// The last of the warnings counts those that are left out, one included.
func TestOneMoreRepeat(t *testing.T) {
	for n, want := range map[int]string{maxRepeats: "", maxRepeats + 1: "; 1 more rules are redundant"} {
		_, warnings, err := loadRules(append([]string{"10.0.0.0/8"}, slices.Repeat([]string{"10.1.0.0/16"}, n)...)...)
		if err != nil || len(warnings) != maxRepeats {
			t.Fatalf("%d warnings, %v", len(warnings), err)
		}
		if last := warnings[maxRepeats-1].Message; strings.Contains(last, "more") != (want != "") || !strings.HasSuffix(last, want) {
			t.Errorf("%d rules: %q", n, last)
		}
	}
}

// FuzzRule compares the parser with net/netip: a rule that is neither a name nor
// a template is accepted only if netip accepts it, with the same meaning.
func FuzzRule(f *testing.F) {
	for _, s := range []string{
		"10.0.0.0/8", "10.0.0.1/8", "10.0.0.1:80", "::ffff:10.0.0.0/104", "::ffff:10.0.0.0/8", "2001:db8::/32", "::/0",
		"0.0.0.0/0",
		"fe80::1%eth0", "[::1]:80", "10.0.0.0/ff000000", "10.0.0.0/255.0.0.0", "rfc1918", "any", "lb.example.com:80",
		"::ffff:a00:0/104", "{{10.0.0.5/24}}", "{{10.0.0.1,::1 x}}",
	} {
		f.Add(s)
	}
	p := newParser()
	p.evaluate = func(text string) (string, error) { return strings.Trim(text, "{}"), nil }
	f.Fuzz(func(t *testing.T, text string) {
		rules, _, err := p.rule(text, "--trust")
		if (err == nil) != (len(rules) > 0) {
			t.Fatalf("rule %q = %v, %v", text, rules, err)
		}
		for _, r := range rules {
			if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6() {
				t.Errorf("rule %q = %v, not canonical", text, r.Prefix)
			}
		}
		if err != nil || strings.Contains(text, "{{") || !strings.ContainsAny(text, ".:/") {
			return
		}
		want, bad := netip.ParsePrefix(text)
		if bad != nil {
			a, bad := netip.ParseAddr(text)
			if bad != nil {
				t.Fatalf("rule %q = %v, netip rejects it: %v", text, rules, bad)
			}
			want = netip.PrefixFrom(a, a.BitLen())
		}
		if want.Addr().Is4In6() {
			want = netip.PrefixFrom(want.Addr().Unmap(), want.Bits()-96)
		}
		if rules[0].Prefix != want {
			t.Errorf("rule %q = %v, netip says %v", text, rules[0].Prefix, want)
		}
	})
}

// Hints that are given, and where none is known: a wrong one would be followed.
func TestHints(t *testing.T) {
	for host, want := range map[string]string{
		"any": "", "*": "", "::1::": "", "fe80::1.x": "", "[any]": "",
		"[::1]": "write ::1 without brackets", "10.0.0.1-10.0.0.9": "write the range as one or more prefixes",
		"lb.example.com": "names are not resolved: write the addresses",
	} {
		if got := addressHint(host); got != want {
			t.Errorf("host %q: %q, want %q", host, got, want)
		}
	}
	for _, row := range []struct{ address, length, want string }{
		{"10.1.2.3", "255.255.255.255", "write 10.1.2.3/32"},
		{"10.1.2.3", "255.255.255.254", "write 10.1.2.2/31"},
		{"10.1.2.3", "128.0.0.0", "write 0.0.0.0/1"},
		{"10.1.2.3", "0.0.0.0", "write 0.0.0.0/0"},
		{"2001:db8::1", "ffff:ffff::", "write 2001:db8::/32"},
		{"10.1.2.3", "ffff::", ""},
		{"2001:db8::1", "255.0.0.0", ""},
		{"10.1.2.3", "255.0.255.0", ""},
		{"10.1.2.3", "ff000000", ""},
		{"10.1.2.3", "", ""},
	} {
		if got := lengthHint(netip.MustParseAddr(row.address), row.length); got != row.want {
			t.Errorf("%s/%s: %q, want %q", row.address, row.length, got, row.want)
		}
	}
}

// A long line is quoted up to 80 bytes.
func TestQuote(t *testing.T) {
	for length, want := range map[int]string{80: `"` + strings.Repeat("x", 80) + `"`, 81: `"` + strings.Repeat("x", 80) + `"…`} {
		if got := quote(strings.Repeat("x", length)); got != want {
			t.Errorf("%d bytes: %s", length, got)
		}
	}
}
