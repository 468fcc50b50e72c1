package integration_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"unproxy/gateway/datagram"
	"unproxy/gateway/record"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// names returns the matches of the first group of pattern in text, sorted and without
// duplicates.
func names(text, pattern string) []string {
	var all []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The tables of docs/flags.md list the flags that there are, and no others.
func TestFlagsAreDocumented(t *testing.T) {
	help, code := lab.RunGateway(t, "--help")
	if code != 0 {
		t.Fatalf("--help: exit code %d", code)
	}
	documented := names(string(readFile(t, "../docs/flags.md")), "(?m)^\\| `--([a-z0-9-]+)")
	existing := names(help, `(?m)^  --([a-z0-9-]+)`)
	if len(existing) < 30 || !slices.Equal(documented, existing) {
		t.Errorf("docs/flags.md has the flags\n%q\nand --help\n%q", documented, existing)
	}
}

// Defaults and choices are those of the help, word by word, where they are
// words: a table that says otherwise is worse than none.
func TestChoicesAreDocumented(t *testing.T) {
	help, _ := lab.RunGateway(t, "--help")
	page := strings.ReplaceAll(string(readFile(t, "../docs/flags.md")), `\|`, "|")
	choice := "--[a-z0-9-]+ [a-z]+(?:\\|[a-z]+)+"
	want := names(help, "("+choice+")")
	got := names(page, "`("+choice+")`")
	if len(want) < 8 || !slices.Equal(got, want) {
		t.Errorf("docs/flags.md has the choices\n%q\nand --help\n%q", got, want)
	}
}

// docs/outcomes.md has a row for each outcome, in order, with its meaning and what to
// do about it.
func TestOutcomesTable(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+) \\| ([^|]+) \\|$").
		FindAllStringSubmatch(string(readFile(t, "../docs/outcomes.md")), -1)
	all := record.Outcomes()
	if len(rows) != len(all) {
		t.Fatalf("docs/outcomes.md has %d outcomes, want %d", len(rows), len(all))
	}
	for i, o := range all {
		if rows[i][1] != o.String() || rows[i][2] != o.Meaning() || plainText(rows[i][3]) != o.Hint() {
			t.Errorf("row %d of docs/outcomes.md is %q; want %q, %q, %q", i+1, rows[i][1:], o, o.Meaning(), o.Hint())
		}
	}
}

// plainText removes links and code marks.
func plainText(markdown string) string {
	linked := regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`).ReplaceAllString(markdown, "$1")
	return strings.ReplaceAll(linked, "`", "")
}

// docs/outcomes.md explains every key of a log line.
//
//	peer ──TLVs, PROXY or nonsense──▶ gateway :2000 ──▶ backend :3000
func TestLogKeys(t *testing.T) {
	t.Parallel()
	_, table, _ := strings.Cut(string(readFile(t, "../docs/outcomes.md")), "## The log line")
	documented := names(table, "`([a-z_]+)`")
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t)
		conn.Close()
		behind.Close()
		g.NextConnection(t)
		lab.Send(t, "127.0.0.1:2000", []byte("GET / HTTP/1.1\r\n"))
		refused := g.NextConnection(t)
		refused.Expect(t, "outcome", "not_proxy", "sample", `"GET / HTTP/1.1\r\n"`)
		for _, line := range g.Log() {
			for key := range line {
				if line.String("message") == "connection" && !slices.Contains(append(documented, "level", "time", "message"), key) {
					t.Errorf("docs/outcomes.md does not explain %q of %v", key, line)
				}
			}
		}
	})
}

// docs/logs.md has a row for each message that the gateway logs, apart from the lines
// of connections. The messages are those in its sources and the events of the engine.
func TestLogMessages(t *testing.T) {
	documented := names(string(readFile(t, "../docs/logs.md")), "(?m)^\\| `([^`]+)` \\|")
	var logged []string
	for _, pattern := range []string{"../gateway/*.go", "../gateway/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source := string(readFile(t, file))
			logged = append(logged, names(source, `\bMsg\("([^"]+)"\)`)...)
			logged = append(logged, names(source, `\bmessage :?= (?:.*, )?"([^"]+)"`)...)
			for _, event := range names(source, `Event: +"([a-z_]+)"`) {
				logged = append(logged, strings.ReplaceAll(event, "_", " "))
			}
		}
	}
	slices.Sort(logged)
	logged = slices.DeleteFunc(slices.Compact(logged), func(message string) bool { return message == "connection" })
	if len(logged) < 15 || !slices.Equal(documented, logged) {
		t.Errorf("docs/logs.md has\n%q\nand the gateway logs\n%q", documented, logged)
	}
}

// Links to files of this repository and to their headings are valid.
func TestLinks(t *testing.T) {
	var documents []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/*/*.md", "../docs/*/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, found...)
	}
	if len(documents) < 7 {
		t.Fatalf("found only %q", documents)
	}
	for _, document := range documents {
		for _, link := range names(string(readFile(t, document)), `\]\(([^)]+)\)`) {
			if strings.HasPrefix(link, "https://") {
				continue
			}
			path, anchor, _ := strings.Cut(link, "#")
			if path = filepath.Join(filepath.Dir(document), path); strings.HasPrefix(link, "#") {
				path = document
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s links to %s: %v", document, link, err)
				continue
			}
			if anchor != "" && !slices.Contains(headings(string(readFile(t, path))), anchor) {
				t.Errorf("%s links to %s, which has no such heading", document, link)
			}
		}
	}
}

// headings returns the anchors of a document's headings: GitHub drops punctuation.
func headings(text string) []string {
	var all []string
	for _, h := range names(text, `(?m)^#+ (.+)$`) {
		h = regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(strings.ToLower(h), "")
		all = append(all, strings.ReplaceAll(h, " ", "-"))
	}
	return all
}

// docs/udp.md has a row for each reason to drop a datagram, in order, with its meaning.
func TestDropsTable(t *testing.T) {
	_, table, _ := strings.Cut(string(readFile(t, "../docs/udp.md")), "## What is dropped")
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+) \\|$").FindAllStringSubmatch(table, -1)
	all := datagram.Drops()
	if len(rows) != len(all) {
		t.Fatalf("docs/udp.md has %d reasons, want %d", len(rows), len(all))
	}
	for i, d := range all {
		if rows[i][1] != d.String() || rows[i][2] != d.Meaning() {
			t.Errorf("row %d of docs/udp.md is %q, %q; want %q, %q", i+1, rows[i][1], rows[i][2], d, d.Meaning())
		}
	}
}
