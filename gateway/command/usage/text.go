package usage

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// MaxQuoted is the maximum number of bytes that [Quote] prints.
const MaxQuoted = 64

// Quote quotes bytes from the wire as a Go string, at most [MaxQuoted] of them.
// The result holds no control bytes. "…" marks what was cut off.
func Quote(b []byte) string {
	if len(b) > MaxQuoted {
		return fmt.Sprintf("%q…", b[:MaxQuoted])
	}
	return fmt.Sprintf("%q", b)
}

// ShellQuote quotes a word for a POSIX shell, if necessary, with single quotes.
func ShellQuote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n?&{}*$\"'`\\|<>;()[]#~!") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Wrap breaks text at white space into lines of at most width bytes. A longer word is a
// line by itself. Wrap returns at least one line.
func Wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}

// JSONFlag returns the flag --json, for output that a program reads.
func JSONFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

// PrintJSON writes v as indented JSON. It does not escape HTML.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
