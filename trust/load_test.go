package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// write creates a trust file and returns its path.
func write(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "trust.txt")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLoadFile(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // line number and prefix
	}{
		{"plain", "10.0.0.0/8\n192.0.2.1\n", []string{"1 10.0.0.0/8", "2 192.0.2.1/32"}},
		{"no final newline", "10.0.0.0/8", []string{"1 10.0.0.0/8"}},
		{"comments and blank lines", "# ours\n\n  10.0.0.0/8\t# the balancers\n   # end\n192.0.2.1#one\n",
			[]string{"3 10.0.0.0/8", "5 192.0.2.1/32"}},
		{"CRLF", "10.0.0.0/8\r\n\r\n192.0.2.1 # one\r\n", []string{"1 10.0.0.0/8", "3 192.0.2.1/32"}},
		{"byte order mark", "\ufeff10.0.0.0/8\n", []string{"1 10.0.0.0/8"}},
		{"byte order mark before a comment", "\ufeff# ours\n10.0.0.0/8\n", []string{"2 10.0.0.0/8"}},
		{"preset", "loopback # this host\n", []string{"1 127.0.0.0/8", "1 ::1/128"}},
		{"template", `{{ "10.0.0.1" }} # mine`, []string{"1 10.0.0.1/32"}},
		{"# inside a template", `{{ slice "#10.0.0.1" 1 }} # mine`, []string{"1 10.0.0.1/32"}},
		{"template in a comment", "10.0.0.1 # was {{ GetPrivateIP }}", []string{"1 10.0.0.1/32"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := write(t, tt.text)
			set, _, err := Load(Source{Files: []string{name}})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range set.Rules() {
				line, ok := strings.CutPrefix(r.Origin, name+":")
				if !ok {
					t.Errorf("origin %q is not a line of %s", r.Origin, name)
				}
				got = append(got, line+" "+r.Prefix.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q = %q, want %q", tt.text, got, tt.want)
			}
		})
	}
}

func TestLoadFileRejected(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", "trust.txt: the file contains no rule"},
		{"only comments", "# nothing\n\n  # here\n", "trust.txt: the file contains no rule"},
		{"only a byte order mark", "\ufeff", "trust.txt: the file contains no rule"},
		{"broken line", "10.0.0.0/8\n# fine\n10.0.0.1/8\n", `trust.txt:3: "10.0.0.1/8" has host bits set`},
		{"two rules in a line", "10.0.0.0/8, 192.0.2.1\n", `trust.txt:1: "10.0.0.0/8, 192.0.2.1" is more than one rule`},
		{"CR line ends", "10.0.0.0/8\r192.0.2.1\r", "trust.txt:1: "},
		{"UTF-16", "\xff\xfe1\x000\x00", "trust.txt:1: "},
		{"; is not a comment", "10.0.0.0/8 ; ours\n", "trust.txt:1: "},
		{"control characters are escaped", "10.0.0.0/8\x1b[31m", `\x1b[31m`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set, _, err := Load(Source{Files: []string{write(t, tt.text)}})
			if set != nil || err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q = %v, %v; want %q", tt.text, set.Rules(), err, tt.want)
			}
		})
	}
}

func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	_, _, err := Load(Source{Files: []string{filepath.Join(dir, "none.txt"), dir}})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.txt: cannot read the file") {
		t.Errorf("missing file: %v", err)
	}
	if !strings.Contains(err.Error(), dir+": cannot read the file: is a directory") {
		t.Errorf("directory: %v", err)
	}
	long := write(t, strings.Repeat("#", maxFileBytes+1))
	if _, _, err := Load(Source{Files: []string{long}}); err == nil ||
		!strings.Contains(err.Error(), "longer than 16 MiB") {
		t.Errorf("file over the size limit: %v", err)
	}
}

func TestLoadNothing(t *testing.T) {
	if set, _, err := Load(Source{Flag: "--trust"}); set != nil || !errors.Is(err, ErrNoRule) {
		t.Errorf("Load of nothing = %v, %v; want ErrNoRule", set, err)
	}
}

func TestLoadReportsAllProblems(t *testing.T) {
	name := write(t, "10.0.0.1/8\n10.0.0.0/8\nlb.example.com\n")
	set, _, err := Load(Source{Rules: []string{"10.0.0.1:80", "192.0.2.1", "nobody"},
		Files: []string{name, name + ".none"}, Flag: "--trust"})
	if set != nil || err == nil {
		t.Fatalf("Load = %v, %v; want no set and errors", set, err)
	}
	want := []string{"--trust: ", "--trust: ", name + ":1: ", name + ":3: ", name + ".none: "}
	got := strings.Split(err.Error(), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d problems, want %d:\n%v", len(got), len(want), err)
	}
	for i := range got {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("problem %d is %q, want one of %s", i, got[i], want[i])
		}
	}
}

// A wrong path, such as a log file, must not flood the terminal.
func TestLoadLimitsProblemsPerFile(t *testing.T) {
	name := write(t, strings.Repeat("GET / HTTP/1.1\n", 1000))
	_, _, err := Load(Source{Files: []string{name}})
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxFileProblems+1 || !strings.Contains(lines[maxFileProblems], "more lines are invalid") {
		t.Errorf("%d problems, want %d and a note about more:\n%v", len(lines), maxFileProblems, err)
	}
	_, _, err = Load(Source{Files: []string{write(t, strings.Repeat("x y\n", maxFileProblems))}})
	if lines := strings.Split(err.Error(), "\n"); len(lines) != maxFileProblems {
		t.Errorf("%d problems, want all %d", len(lines), maxFileProblems)
	}
}

func TestLoadLongList(t *testing.T) {
	var b strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&b, "10.%d.%d.0/24\n", i/256, i%256)
	}
	set, warnings, err := Load(Source{Files: []string{write(t, b.String())}})
	if err != nil || set.Len() != 10_000 || len(warnings) != 0 {
		t.Errorf("%d rules, %d warnings, %v; want 10000 and none", set.Len(), len(warnings), err)
	}
}

// FuzzFile checks that a file loads if and only if it yields rules, and that each
// rule comes from its text.
func FuzzFile(f *testing.F) {
	for _, s := range []string{
		"10.0.0.0/8\n", "\ufeff# x\r\n10.0.0.1 # y\r\nrfc1918", "{{ # }}", "# {{\n}}",
		"a b\n10.0.0.1/8",
	} {
		f.Add(s)
	}
	p := newParser()
	p.evaluate = func(string) (string, error) { return "192.0.2.1", nil }
	name := filepath.Join(f.TempDir(), "trust.txt")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		set, _, err := p.load(Source{Files: []string{name}})
		if (err == nil) != (set.Len() > 0) {
			t.Fatalf("%q = %d rules, %v", text, set.Len(), err)
		}
		for _, r := range set.Rules() {
			if !strings.Contains(text, r.Text) || !set.Contains(r.Prefix.Addr()) {
				t.Errorf("file %q yields rule %+v", text, r)
			}
		}
	})
}

// Warnings are returned beside the errors: one run shows everything.
func TestWarningsBesideErrors(t *testing.T) {
	set, warnings, err := Load(Source{Rules: []string{"any", "nonsense", "10.0.0.0/8"}, Flag: "--trust"})
	if set != nil || err == nil || len(warnings) < 2 {
		t.Errorf("%v, %q, %v", set, warnings, err)
	}
}

// The limit of problems is that of each file.
func TestLimitOfEachFile(t *testing.T) {
	files := make([]string, 2)
	for i := range files {
		files[i] = filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(files[i], []byte(strings.Repeat("10.0.0.1:80\n", 15)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := Load(Source{Files: files})
	if err == nil || strings.Count(err.Error(), "contains a port") != 30 || strings.Contains(err.Error(), "more lines") {
		t.Error(err)
	}
}

// A list may be empty if that is allowed and a comment says so: a file without anything is
// what a failed export leaves behind.
func TestEmptyList(t *testing.T) {
	for _, row := range []struct {
		text  string
		allow bool
		want  string
	}{
		{"# none\n", true, ""},
		{"# none\n", false, "the file contains no rule"},
		{"", true, "the file contains no rule"},
		{"\n\n", true, "the file contains no rule"},
		{"# one\n10.0.0.0/8\n", true, ""},
	} {
		file := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(file, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		set, _, err := Load(Source{Files: []string{file}, AllowEmpty: row.allow})
		if row.want == "" && (err != nil || set == nil) || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%q, allowed %v: %v, want %q", row.text, row.allow, err, row.want)
		}
		var e *Error
		if errors.As(err, &e) && strings.Contains(e.Hint(), "a comment alone") != row.allow {
			t.Errorf("%q, allowed %v: the hint %q", row.text, row.allow, e.Hint())
		}
	}
}
