package gopeers_test

import (
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/interop.md")

const page = "../../docs/interop.md"

// The section of the page on senders in Go has the rows of the table of tests, with the versions of go.mod.
func TestInteropPage(t *testing.T) {
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const heading, next = "\n## Senders in Go\n", "\n## Servers\n"
	before, rest, found := strings.Cut(string(content), heading)
	old, after, ended := strings.Cut(rest, next)
	if !found || !ended {
		t.Fatalf("%s lacks the heading %q or %q", page, heading, next)
	}
	section := table(t)
	if *update {
		if err := os.WriteFile(page, []byte(before+heading+section+next+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != section {
		t.Errorf("%s has\n%s\nwant\n%s\n./scripts/interop -update writes it", page, old, section)
	}
}

func table(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(`
` + "`scripts/interop`" + ` builds these from source, which takes minutes, and runs the same for TCP and for UDP. It is not part
of ` + "`scripts/test`" + `.

| sender | version | protocol | header | destination that it names |
|---|---|---|---|---|
`)
	for _, s := range senders() {
		named := "that of the client's connection"
		if s.named == gateway {
			named = "the gateway's own address"
		}
		b.WriteString("| " + strings.Join([]string{s.name, version(t, s.module), strings.ToUpper(s.network),
			"version " + s.header[1:], named}, " | ") + " |\n")
	}
	return b.String()
}

// version returns the version of a module in go.mod.
func version(t *testing.T, module string) string {
	t.Helper()
	output, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(output)), "v")
}
