package usage

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestQuote(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", `""`},
		{"a\x1b[31m\xff", `"a\x1b[31m\xff"`},
		{strings.Repeat("x", MaxQuoted), `"` + strings.Repeat("x", MaxQuoted) + `"`},
		{strings.Repeat("x", MaxQuoted+1), `"` + strings.Repeat("x", MaxQuoted) + `"…`},
	} {
		if got := Quote([]byte(tt.in)); got != tt.want {
			t.Errorf("Quote(%q) = %s; want %s", tt.in, got, tt.want)
		}
	}
}

// A shell is the oracle: it must parse the result to the same word.
func TestShellQuote(t *testing.T) {
	for _, word := range []string{"", "plain", "10.0.0.0/8", ":1=127.0.0.1:2?mark=7&local=close", "it's", "a b\tc\nd", "$HOME `x` \\", "[a]*#~"} {
		out, err := exec.Command("sh", "-c", "printf '%s' "+ShellQuote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("sh reads %s as %q, %v; want %q", ShellQuote(word), out, err, word)
		}
	}
	if got := ShellQuote("10.0.0.0/8"); got != "10.0.0.0/8" {
		t.Errorf("a plain word is quoted: %s", got)
	}
}

func TestWrap(t *testing.T) {
	for _, tt := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 5, []string{""}},
		{"one two  three", 7, []string{"one two", "three"}},
		{"sesquipedalian word", 5, []string{"sesquipedalian", "word"}},
	} {
		if got := Wrap(tt.text, tt.width); !slices.Equal(got, tt.want) {
			t.Errorf("Wrap(%q, %d) = %q; want %q", tt.text, tt.width, got, tt.want)
		}
	}
}

func TestPrintJSON(t *testing.T) {
	var out bytes.Buffer
	if err := PrintJSON(&out, map[string]string{"a": "<&>"}); err != nil || out.String() != "{\n  \"a\": \"<&>\"\n}\n" {
		t.Errorf("%v, %s", err, out.String())
	}
}
