package value

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for _, tt := range []struct {
		text    string
		least   time.Duration
		most    time.Duration // 0 means an hour
		want    time.Duration
		why     string // "" is no error
		instead string
	}{
		{text: "5s", want: 5 * time.Second},
		{text: "1m30s", want: 90 * time.Second},
		{text: "0", least: time.Second},
		{text: "off", least: time.Second},
		{text: "5", why: "has no unit", instead: "5s"},
		{text: "five", why: "is not a duration"},
		{text: "", why: "is not a duration"},
		{text: "-1s", why: "is too short"},
		{text: "10ms", least: time.Second, why: "is too short", instead: "1s"},
		{text: "1m", most: time.Minute, want: time.Minute},
		{text: "60001ms", most: time.Minute, why: "is too long: the maximum is 1m0s", instead: "1m0s"},
		{text: "2562047h47m16.854775807s", why: "is too long"}, // the longest time.Duration
		{text: "2562048h", why: "is not a duration"},
	} {
		if tt.most == 0 {
			tt.most = time.Hour
		}
		got, err := Duration(tt.text, tt.least, tt.most)
		check(t, "Duration", tt.text, err, tt.why, tt.instead)
		if err == nil && got != tt.want {
			t.Errorf("Duration(%q) = %v; want %v", tt.text, got, tt.want)
		}
	}
}

func TestSize(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int
		why  string
	}{
		{text: "4096", want: 4096},
		{text: "64k", want: 64 << 10},
		{text: "16KiB", want: 16 << 10},
		{text: "1MiB", want: 1 << 20},
		{text: "536 B", want: 536},
		{text: "", why: "is not a size"},
		{text: "k", why: "is not a size"},
		{text: "-1", why: "is not a size"},
		{text: "1.5k", why: "is not a size"},
		{text: "16KX", why: "is not a size"},
		{text: "1024GiB", want: 1 << 40},
		{text: "1025g", why: "is too large"},
		{text: "4000000000000k", why: "is too large"},
	} {
		got, err := Size(tt.text)
		check(t, "Size", tt.text, err, tt.why, "")
		if err == nil && got != tt.want {
			t.Errorf("Size(%q) = %d; want %d", tt.text, got, tt.want)
		}
	}
}

func TestCount(t *testing.T) {
	for _, tt := range []struct {
		text string
		want uint64
		why  string
	}{
		{text: "7", want: 7},
		{text: "0x2A", want: 42},
		{text: "off"},
		{text: "101", why: "is not a whole number from 0 to 100"},
		{text: "-1", why: "is not a whole number"},
		{text: "", why: "is not a whole number"},
		{text: "1e2", why: "is not a whole number"},
	} {
		got, err := Count(tt.text, 100)
		check(t, "Count", tt.text, err, tt.why, "")
		if err == nil && got != tt.want {
			t.Errorf("Count(%q) = %d; want %d", tt.text, got, tt.want)
		}
	}
}

func TestSwitchAndMode(t *testing.T) {
	for text, want := range map[string]bool{"": true, "on": true, "true": true, "1": true, "off": false, "false": false, "0": false} {
		if got, err := Switch(text); err != nil || got != want {
			t.Errorf("Switch(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	_, err := Switch("onn")
	check(t, "Switch", "onn", err, "is not one of on, off", "on")
	if got, err := Mode("0660"); err != nil || got != 0o660 {
		t.Errorf("Mode(0660) = %o, %v", got, err)
	}
	for _, text := range []string{"0888", "1777", "rw", ""} {
		_, err := Mode(text)
		check(t, "Mode", text, err, "is not a file mode", "0660")
	}
}

func check(t *testing.T, what, text string, err error, why, instead string) {
	t.Helper()
	if why == "" {
		if err != nil {
			t.Errorf("%s(%q) failed: %v", what, text, err)
		}
		return
	}
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Why, why) || instead != "" && e.Hint != instead {
		t.Errorf("%s(%q) = %#v; want %q and instead %q", what, text, err, why, instead)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"relay", "reject", "close", "header-timeout", "trust"}
	for word, want := range map[string]string{
		"reley":          "relay",
		"realy":          "relay",
		"rejct":          "reject",
		"headertimeout":  "header-timeout",
		"header":         "header-timeout",
		"tursts":         "trust",
		"something-else": "",
		"x":              "",
		"":               "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) = %q; want %q", word, got, want)
		}
	}
}

func TestTemplatesAreNotSplit(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"a b  c", []string{"a", "b", "c"}},
		{"  ", nil},
		{"{{ GetPrivateIP }}:443=127.0.0.1:22 :25=10.0.0.1:25", []string{"{{ GetPrivateIP }}:443=127.0.0.1:22", ":25=10.0.0.1:25"}},
		{"{{ never closed", []string{"{{ never closed"}},
		{"a\n\tb", []string{"a", "b"}},
		{"# all\na # one\n#b\nc#d #", []string{"a", "c#d"}},
		{"a#b {{ c # d }} # e", []string{"a#b", "{{ c # d }}"}},
	} {
		if got := Fields(tt.in); !slices.Equal(got, tt.want) {
			t.Errorf("Fields(%q) = %q; want %q", tt.in, got, tt.want)
		}
	}
	const template = `{{ GetAllInterfaces | include "name" "a=b,c?d" | attr "address" }}:443`
	if got := Split(template+",x", ','); len(got) != 2 || got[0] != template {
		t.Errorf("Split(%q) = %q", template+",x", got)
	}
	if before, _, found := Cut(template+"=x", '='); !found || before != template {
		t.Errorf("Cut = %q, %v", before, found)
	}
}

func TestPrefix(t *testing.T) {
	for text, want := range map[string]string{
		"203.0.113.9/32": "203.0.113.9", "203.0.113.0/24": "203.0.113.0/24",
		"2001:db8::1/128": "2001:db8::1", "2001:db8::/64": "2001:db8::/64",
	} {
		if got := Prefix(netip.MustParsePrefix(text)); got != want {
			t.Errorf("Prefix(%s) = %s; want %s", text, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{strings.Repeat("a", 120), strings.Repeat("a", 120)},
		{strings.Repeat("a", 121), strings.Repeat("a", 117) + "..."},
	} {
		if got := Shorten(tt.text); got != tt.want {
			t.Errorf("Shorten(%q) = %q; want %q", tt.text, got, tt.want)
		}
	}
}

// FuzzFields checks two invariants: the pieces of Split join to the input, and
// without templates and comments, Fields is strings.Fields.
func FuzzFields(f *testing.F) {
	f.Add("a b {{ c d }} e")
	f.Fuzz(func(t *testing.T, s string) {
		if got := strings.Join(Split(s, ','), ","); got != s {
			t.Fatalf("Split(%q) joins to %q", s, got)
		}
		ascii := !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
		if ascii && !strings.Contains(s, "{{") && !strings.Contains(s, "#") && !slices.Equal(Fields(s), strings.Fields(s)) {
			t.Fatalf("Fields(%q) = %q; want %q", s, Fields(s), strings.Fields(s))
		}
	})
}
