package value

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
)

// Split splits s at each sep outside of {{ templates }}. Like [strings.Split] it
// returns at least one piece.
func Split(s string, sep byte) []string {
	var pieces []string
	for {
		before, after, found := Cut(s, sep)
		pieces = append(pieces, before)
		if !found {
			return pieces
		}
		s = after
	}
}

// Cut is [strings.Cut] at the first sep outside of {{ templates }}.
func Cut(s string, sep byte) (before, after string, found bool) {
	if i := index(s, func(b byte) bool { return b == sep }); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// Fields splits the value of an environment variable at white space outside of
// {{ templates }}. A field that begins with "#" starts a comment, up to the end of
// the line.
func Fields(s string) []string {
	var fields []string
	for s != "" {
		if s[0] == '#' {
			_, s, _ = strings.Cut(s, "\n")
			continue
		}
		i := index(s, func(b byte) bool { return unicode.IsSpace(rune(b)) && b < 0x80 })
		if i < 0 {
			i = len(s)
		}
		if i > 0 {
			fields = append(fields, s[:i])
		}
		s = s[min(i+1, len(s)):]
	}
	return fields
}

// index returns the first position outside of {{ templates }} whose byte
// matches, or -1. A template that is not closed extends to the end.
func index(s string, match func(byte) bool) int {
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], "{{") {
			end := strings.Index(s[i:], "}}")
			if end < 0 {
				return -1
			}
			i += end + 1
			continue
		}
		if match(s[i]) {
			return i
		}
	}
	return -1
}

// Nearest returns the candidate of which word is most likely a misspelling, or "".
// At most a third of the letters may be wrong.
func Nearest(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, nearest := len(word)/3+1, ""
	for _, c := range candidates {
		d := distance(word, c)
		if len(word) >= 3 && strings.HasPrefix(c, word) {
			d = min(d, 1) // an abbreviation
		}
		if d < best || d == best && nearest == "" {
			best, nearest = d, c
		}
	}
	return nearest
}

// distance returns the optimal string alignment distance: the least number of
// letters to insert, delete, change or swap with their neighbour to turn a into b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// Shorten cuts a text for a message to 120 bytes. It may cut a character in two;
// %q shows that.
func Shorten(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return s[:most-3] + "..."
}

// OneLine joins the lines of s with "; ", for a message of one line.
func OneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// Prefix returns a prefix as an operator writes it: an address if it has full length.
func Prefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// Plural returns a count and its noun: "1 rule", "2 rules".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
