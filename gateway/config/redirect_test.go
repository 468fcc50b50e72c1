package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
)

func TestParseRedirect(t *testing.T) {
	for _, tt := range []struct {
		text    string
		want    string // its String; "" is an error
		instead string
	}{
		{"203.0.113.0/24:1000-2000", "203.0.113.0/24:1000-2000", ""},
		{"203.0.113.0/24:25", "203.0.113.0/24:25", ""},
		{"203.0.113.0/24", "203.0.113.0/24", ""},
		{"203.0.113.7", "203.0.113.7/32", ""},
		{"203.0.113.7:25", "203.0.113.7/32:25", ""},
		{"203.0.113.0/24:1-65535", "203.0.113.0/24", ""},
		{"0.0.0.0/0:25", "0.0.0.0/0:25", ""},
		{"[2001:db8::/64]:1000-2000", "[2001:db8::/64]:1000-2000", ""},
		{"[2001:db8::/64]", "[2001:db8::/64]", ""},
		{"2001:db8::/64", "[2001:db8::/64]", ""},
		{"2001:db8::1", "[2001:db8::1/128]", ""},
		{"[2001:db8::1]:25", "[2001:db8::1/128]:25", ""},
		{"[::/0]:25", "[::/0]:25", ""},
		{":1000-2000", ":1000-2000", ""},
		{":25", ":25", ""},
		{":1-65535", ":1-65535", ""},

		{"", "", ""},
		{":", "", ""},
		{":0", "", ""},
		{":0-25", "", ""},
		{":25-24", "", ""},
		{":65536", "", ""},
		{":-", "", ""},
		{"1000-2000", "", ":1000-2000"},
		{"25", "", ":25"},
		{"0", "", ""},
		{"203.0.113.0/24:", "", ""},
		{"203.0.113.0/33:25", "", ""},
		{"203.0.113.7/24:25", "", "203.0.113.0/24:25"},
		{"[203.0.113.0/24]:25", "", "203.0.113.0/24:25"},
		{"2001:db8::1/64", "", "[2001:db8::/64]"},
		{"2001:db8::/64:25", "", ""},
		{"[2001:db8::/64]25", "", ""},
		{"[2001:db8::/64]:", "", ""},
		{"[2001:db8::]/64:25", "", ""},
		{"[2001:db8::/64", "", ""},
		{"0.0.0.0:25", "", ":25"},
		{"0.0.0.0", "", ":1-65535"},
		{"[::]:20-25", "", ":20-25"},
		{"[]:25", "", ""},
		{"[fe80::1%eth0]:25", "", ""},
		{"[::ffff:203.0.113.0/120]:25", "", ""},
		{"[::ffff:203.0.113.7]:25", "", ""},
		{"mail.example:25", "", ""},
		{"203.0.113.0/24:25:26", "", ""},
	} {
		r, err := parseRedirect(tt.text)
		if tt.want == "" {
			e, ok := errors.AsType[*value.Error](err)
			if !ok || e.Value != tt.text || e.Hint != tt.instead {
				t.Errorf("parseRedirect(%q) = %v, %#v; want an error that says %q instead", tt.text, r, err, tt.instead)
			}
			continue
		}
		if err != nil || r.String() != tt.want {
			t.Errorf("parseRedirect(%q) = %v, %v; want %s", tt.text, r, err, tt.want)
		}
	}
}

// FuzzParseRedirect checks that an accepted redirect parses to itself from its
// String, and that each hint is accepted.
func FuzzParseRedirect(f *testing.F) {
	f.Add("203.0.113.0/24:1000-2000")
	f.Add("[2001:db8::/64]:25")
	f.Add(":25")
	f.Add("2001:db8::1/64")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRedirect(text)
		if e, ok := errors.AsType[*value.Error](err); ok && e.Hint != "" {
			text = e.Hint
			r, err = parseRedirect(text)
			if err != nil {
				t.Fatalf("parseRedirect(%q), which is a hint: %v", text, err)
			}
		}
		if err != nil {
			return
		}
		again, err := parseRedirect(r.String())
		if err != nil || again != r || r.Low == 0 || r.Low > r.High {
			t.Fatalf("parseRedirect(%q) = %v, which reads as %v, %v", text, r, again, err)
		}
	})
}

// The flag --redirect applies to every tproxy listener. A forward's keys replace it.
func TestRedirectOfAllAndOfOne(t *testing.T) {
	c, _, err := load([]string{":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8:25&redirect=:80", ":2=127.0.0.1:9?tproxy", ":3=127.0.0.1:9"},
		"redirect 203.0.113.0/24", "redirect [2001:db8::/64]:443")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"10.0.0.0/8:25 :80", "203.0.113.0/24 [2001:db8::/64]:443", ""} {
		var got []string
		for _, r := range c.Forwards[i].Redirect {
			got = append(got, r.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("forward %d: redirects %q, want %q", i+1, got, want)
		}
	}
}

func TestRedirectProblems(t *testing.T) {
	for _, tt := range []struct {
		name     string
		forwards []string
		given    []string
		want     string
	}{
		{"without tproxy", []string{":1=127.0.0.1:9?redirect=:25"}, nil, "forward :1: redirect needs a tproxy listener"},
		{"without tproxy anywhere", []string{":1=127.0.0.1:9", ":2=127.0.0.1:9"}, []string{"redirect :25"}, "--redirect needs a tproxy listener, but no forward has one"},
		{"without tproxy in the only forward", []string{":1=127.0.0.1:9"}, []string{"redirect :25"}, "--redirect needs a tproxy listener, but no forward has one"},
		{"on a unix socket", []string{"unix:/a=127.0.0.1:9?tproxy"}, nil, "a unix socket cannot accept redirected connections"},
		{"to many listeners", []string{":1-3=127.0.0.1:9?tproxy&redirect=:25"}, nil, "3 listeners share a redirect"},
		{"to two listeners", []string{":1-2=127.0.0.1:9?tproxy&redirect=:25"}, nil, "2 listeners share a redirect"},
		{"to port 0", []string{":0=127.0.0.1:9?tproxy&redirect=:25"}, nil, "needs a fixed port"},
		{"of the other family", []string{"0.0.0.0:1=127.0.0.1:9?tproxy&redirect=[2001:db8::/64]"}, nil, "redirect [2001:db8::/64] and the listener have different address families"},
		{"of the other family, IPv6 listener", []string{"[::1]:1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8"}, nil, "redirect 10.0.0.0/8 and the listener have different address families"},
		{"twice", []string{":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8:20-25", ":2=127.0.0.1:9?tproxy&redirect=10.1.0.0/16:25-30"}, nil,
			"redirect 10.0.0.0/8:20-25 to listener :1 and redirect 10.1.0.0/16:25-30 to listener :2 overlap"},
		{"twice, of the host's own addresses", []string{":1=127.0.0.1:9?tproxy&redirect=:20-25", ":2=127.0.0.1:9?tproxy&redirect=:25"}, nil, "redirect :25 to listener :2 overlap"},
		{"twice, by a flag", []string{":1=127.0.0.1:9?tproxy", ":2=127.0.0.1:9?tproxy"}, []string{"redirect :25"}, "redirect :25 to listener :2 overlap"},
		{"of another listener", []string{":1=127.0.0.1:9?tproxy&redirect=:20-25", ":25=127.0.0.1:9"}, nil,
			"redirect :20-25 to listener :1 also takes the connections to listener :25"},
		{"of one of other listeners", []string{"10.0.0.1:20-22=127.0.0.1:9", ":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8:22"}, nil,
			"also takes the connections to listener 10.0.0.1:22"},
		{"the first of several is wrong", []string{":1=127.0.0.1:9?tproxy"}, []string{"redirect 25", "redirect :26"}, `--redirect "25" is not PREFIX:PORTS`},
		{"the first of several keys is wrong", []string{":1=127.0.0.1:9?tproxy&redirect=25&redirect=:26"}, nil, `redirect "25" is not PREFIX:PORTS`},
	} {
		_, _, err := load(tt.forwards, tt.given...)
		if n := len(Leaves(err)); err == nil || n != 1 || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %d problems, %v; want %q", tt.name, n, err, tt.want)
		}
	}
}

func TestRedirectWarnings(t *testing.T) {
	for _, tt := range []struct{ forward, want string }{
		{":1=127.0.0.1:9?tproxy", "no redirect is given for this tproxy listener"},
		{":1-3=127.0.0.1:9?tproxy", "no redirect is given for this tproxy listener"},
		{":1=127.0.0.1:9?tproxy&redirect=:1-65535", "redirect :1-65535 takes every connection"},
		{":1=127.0.0.1:9?tproxy&redirect=0.0.0.0/0", "redirect 0.0.0.0/0 takes every connection"},
		{":1=127.0.0.1:9?tproxy&redirect=[::/0]", "redirect [::/0] takes every connection"},
		{":1=127.0.0.1:9?tproxy&redirect=0.0.0.0/1", ""},
		{":1=127.0.0.1:9?tproxy&redirect=:1-65534", ""},
		{":1=127.0.0.1:9?tproxy&redirect=:2-65535", ""},
		{"0.0.0.0:1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8", ""},
		{"0.0.0.0:1=127.0.0.1:9?tproxy&redirect=:25", ""},
		{"[2001:db8::1]:1=127.0.0.1:9?tproxy&redirect=[2001:db8::/64]", ""},
		{"[2001:db8::1]:1=127.0.0.1:9?tproxy&redirect=:25", ""},
		{":1=127.0.0.1:9?tproxy&redirect=0.0.0.0/0:25", ""},
		{":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8&redirect=[2001:db8::/64]:1-3&redirect=:25", ""},
		{":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8&redirect=10.0.0.0/8:25", ""}, // overlaps within one listener are harmless
	} {
		_, warnings, err := load([]string{tt.forward})
		if err != nil || tt.want == "" && len(warnings) != 0 || tt.want != "" && (len(warnings) != 1 || !strings.Contains(warnings[0].String(), tt.want)) {
			t.Errorf("%s: warnings %v, %v; want %q", tt.forward, warnings, err, tt.want)
		}
	}
}

// Redirects with different ports or prefixes do not overlap.
func TestRedirectsApart(t *testing.T) {
	_, _, err := load([]string{
		":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8:20-25&redirect=:20-25",
		":2=127.0.0.1:9?tproxy&redirect=10.0.0.0/8:26-30&redirect=:26",
		":3=127.0.0.1:9?tproxy&redirect=[2001:db8::/64]:20-25",
		":4=127.0.0.1:9",
		"10.0.0.1:5-19=127.0.0.1:9",
		"127.0.0.1:22=127.0.0.1:9", // lo is not redirected
		"unix:/a=127.0.0.1:9",
	})
	if err != nil {
		t.Error(err)
	}
}

// The ports of a redirect, with both ends, hide listeners and clash with other redirects.
func TestEndsOfRedirects(t *testing.T) {
	const overlap, hides = "overlap | use different addresses or ports", "| keep the ports of other listeners out of --redirect"
	for _, tt := range []struct {
		forwards string
		given    string
		want     []string
	}{
		{":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8:20-25 10.0.0.1:20=127.0.0.1:9", "",
			[]string{"redirect 10.0.0.0/8:20-25 to listener :1 also takes the connections to listener 10.0.0.1:20 " + hides}},
		{":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8:20-25 10.0.0.1:25=127.0.0.1:9", "", []string{hides}},
		{":1=127.0.0.1:9?tproxy&redirect=10.0.0.0/8:20-25 10.0.0.1:19=127.0.0.1:9 10.0.0.1:26=127.0.0.1:9 11.0.0.1:22=127.0.0.1:9", "", nil},
		{"10.0.0.1:25=127.0.0.1:9 :1=127.0.0.1:9?tproxy&redirect=:25", "", []string{hides}},
		{":1=127.0.0.1:9?tproxy&redirect=:20-25 :2=127.0.0.1:9?tproxy&redirect=:25-30", "", []string{overlap}},
		{":1=127.0.0.1:9?tproxy&redirect=:25-30 :2=127.0.0.1:9?tproxy&redirect=:20-25", "", []string{overlap}},
		{":1=127.0.0.1:9?tproxy&redirect=:20-25 :2=127.0.0.1:9?tproxy&redirect=:26-30", "", nil},
		{":1=127.0.0.1:9?tproxy&redirect=:26-30 :2=127.0.0.1:9?tproxy&redirect=:20-25", "", nil},
		{":1=127.0.0.1:9?tproxy :2=127.0.0.1:9?tproxy :3=127.0.0.1:9?tproxy", "redirect :25", []string{
			"redirect :25 to listener :1 and redirect :25 to listener :2 " + overlap,
			"redirect :25 to listener :1 and redirect :25 to listener :3 " + overlap,
			"redirect :25 to listener :2 and redirect :25 to listener :3 " + overlap}},
		{":1=127.0.0.1:9?tproxy&redirect=:1 :2=127.0.0.1:9", "", nil}, // its own port
	} {
		var given []string
		if tt.given != "" {
			given = append(given, tt.given)
		}
		_, warnings, err := load(strings.Fields(tt.forwards), given...)
		got := findings(warnings, err)
		if len(got) != len(tt.want) {
			t.Errorf("%s: %q; want %q", tt.forwards, got, tt.want)
			continue
		}
		for i, want := range tt.want {
			if !strings.HasSuffix(got[i], want) {
				t.Errorf("%s: %q; want %q", tt.forwards, got[i], want)
			}
		}
	}
}

// A forward without a listener has no redirect that another one could meet.
func TestRedirectOfNoListener(t *testing.T) {
	f := mustLoad(t, ":1=127.0.0.1:9?tproxy&redirect=:25")
	empty := *f
	empty.Listeners = nil
	for _, all := range [][]*forward.Forward{{f, &empty}, {&empty, f}} {
		if got := findings((&Config{Forwards: all}).Validate()); len(got) != 1 || !strings.HasPrefix(got[0], "a forward has no listener") {
			t.Errorf("%q", got)
		}
	}
}

func TestRedirectByHand(t *testing.T) {
	f := *mustLoad(t, ":1=127.0.0.1:9?tproxy&redirect=:25")
	f.Redirect = []forward.Redirect{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Low: 7, High: 6}}
	c := &Config{Forwards: []*forward.Forward{&f}}
	if _, err := c.Validate(); len(Leaves(err)) != 2 || !strings.Contains(err.Error(), "has no ports") {
		t.Errorf("redirects of no ports: %v", err)
	}
}
