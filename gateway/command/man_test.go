package command

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"unproxy/gateway/config"
)

var update = flag.Bool("update", false, "write the generated parts of the man page")

const manPage = "../../docs/man/unproxy.8"

// roff escapes a text for roff: hyphens, backslashes, and a dot or quote at the
// beginning of a line (groff_char(7), groff(7)).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		return `\&` + s
	}
	return s
}

// manCommands returns the list of commands, each followed by its subcommands.
func manCommands() string {
	var b strings.Builder
	meanings := map[string]string{}
	for _, c := range all() {
		if name, below := strings.CutPrefix(c.path, "unproxy "); below {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(name), roff(meanings[c.path]))
		}
		for _, w := range c.commands {
			meanings[c.path+" "+w.word] = w.meaning
		}
	}
	return b.String()
}

// manOptions returns the list of the gateway's flags by group.
func manOptions() string {
	var b strings.Builder
	all := config.Settings()
	for i, s := range all {
		if i == 0 || s.Group != all[i-1].Group {
			fmt.Fprintf(&b, ".SS %s\n", roff(s.Group.String()))
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n", strings.TrimSpace(roff("--"+s.Name)+` \fI`+roff(s.Argument)+`\fR`))
		fmt.Fprintf(&b, "%s\n", roff(s.Usage()))
	}
	return b.String()
}

// TestManPage checks that the man page lists the flags and commands of the program.
func TestManPage(t *testing.T) {
	content, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	for name, want := range map[string]string{"commands": manCommands(), "options": manOptions()} {
		before, rest, ok1 := strings.Cut(page, ".\\\" generated: "+name+"\n")
		got, after, ok2 := strings.Cut(rest, ".\\\" end\n")
		if !ok1 || !ok2 {
			t.Fatalf("%s has no section for the %s", manPage, name)
		}
		if got == want {
			continue
		}
		if !*update {
			t.Errorf("the %s in %s differ from the program: go test ./gateway/command -run TestManPage -update", name, manPage)
		}
		page = before + ".\\\" generated: " + name + "\n" + want + ".\\\" end\n" + after
	}
	if *update {
		if err := os.WriteFile(manPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManPageRenders checks the page with groff, and that every flag and command
// is in the rendered text.
func TestManPageRenders(t *testing.T) {
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("groff is not installed")
	}
	var shown, warnings strings.Builder
	cmd := exec.Command("groff", "-man", "-Tascii", "-ww", "-rLL=100n", "-P-c", "-P-b", "-P-u", manPage)
	cmd.Stdout, cmd.Stderr = &shown, &warnings
	if err := cmd.Run(); err != nil || warnings.Len() > 0 {
		t.Fatalf("groff: %v: %s", err, warnings.String())
	}
	for _, name := range optionNames() {
		if !strings.Contains(shown.String(), "\n       --"+name) {
			t.Errorf("--%s is not in the man page", name)
		}
	}
	for _, c := range all()[1:] {
		if !strings.Contains(shown.String(), "\n       "+strings.TrimPrefix(c.path, "unproxy ")) {
			t.Errorf("%s is not in the man page", c.path)
		}
	}
}
