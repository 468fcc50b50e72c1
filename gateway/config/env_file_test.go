package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The rows without an error were taken from systemd.exec(5) and from
// src/basic/env-file.c and src/test/test-env-file.c of systemd.
func TestParseEnvFile(t *testing.T) {
	for _, row := range []struct {
		name, text string
		want       []string
		fails      string
	}{
		{"plain", "A=1\nB=two words\n", []string{"A=1", "B=two words"}, ""},
		{"no newline at the end", "A=1", []string{"A=1"}, ""},
		{"empty values", "A=\nB=''\nC=", []string{"A=", "B=", "C="}, ""},
		{"comments", "# a\n; b=1\n  # c\nA=1 # no comment\n", []string{"A=1 # no comment"}, ""},
		{"white space", "  A  =  1  2  \n\tB=\t3\t\n", []string{"A=1  2", "B=3"}, ""},
		{"Windows line ends", "A=1\r\nB=\"2\"\r\n", []string{"A=1", "B=2"}, ""},
		{"continued", "A=1 \\\n  2\\\n3\n", []string{"A=1   23"}, ""},
		{"an escape", `A=a\b\"c` + "\n", []string{`A=ab"c`}, ""},
		{"single quotes", "A='a \"b\" \\n $c'\n", []string{`A=a "b" \n $c`}, ""},
		{"double quotes", `A="a \"b\" \\ \$c \d"` + "\n", []string{`A=a "b" \ $c \d`}, ""},
		{"quoted white space", "A=' a '\n", []string{"A= a "}, ""},
		{"quoted lines", "A=\"\n  one\n  two\n\"\nB=3\n", []string{"A=\n  one\n  two\n", "B=3"}, ""},
		{"quoted parts", `A="a"  'b'c` + "\n", []string{"A=abc"}, ""},
		{"a quote inside a word", "A=it's\n", []string{"A=it's"}, ""},
		{"continued in double quotes", "A=\"a\\\nb\"\n", []string{"A=ab"}, ""},
		{"an equals sign", ":A=1", nil, `1: ":A" is not the name of a variable`},
		{"in the value", "UNPROXY_FORWARD=:8443=127.0.0.1:443?trust=10.0.0.0/8", []string{"UNPROXY_FORWARD=:8443=127.0.0.1:443?trust=10.0.0.0/8"}, ""},
		{"twice", "A=1\nA=2\n", []string{"A=1", "A=2"}, ""},
		{"the letters of a name", "AZ_az09=1\n_=2\nB=3", []string{"AZ_az09=1", "_=2", "B=3"}, ""},
		{"a name that begins with a digit", "0A=1", nil, `1: "0A" is not the name of a variable`},
		{"before A", "A@=1", nil, `"A@" is not the name of a variable`},
		{"after Z", "A[=1", nil, `"A[" is not the name of a variable`},
		{"before a", "A`=1", nil, "is not the name of a variable"},
		{"after z", "A{=1", nil, `"A{" is not the name of a variable`},
		{"before 0", "A/=1", nil, `"A/" is not the name of a variable`},
		{"after 9", "A:=1", nil, `"A:" is not the name of a variable`},
		{"no name", "=1", nil, `1: "" is not the name of a variable`},
		{"a byte order mark", "\ufeffA=1\n", []string{"A=1"}, ""},
		{"a comment at the end", "A=1\n# b", []string{"A=1"}, ""},
		{"a comment of Windows with a continuation", "A=1\n; a\\\r\nB=2\n", nil, "2: a comment ends with"},
		{"a backslash at the end", "A=1\\", []string{"A=1"}, ""},
		{"an escaped blank at the end", "A=1\\ \nB=2", []string{"A=1 ", "B=2"}, ""},
		{"a quote after a continuation", "A=\\\n'1 '\n", []string{"A=1 "}, ""},
		{"a quote after an escape", "A=\\a'b'\n", []string{"A=a'b'"}, ""},
		{"blanks around a continued quote", "A= \"1\" \\\n \"2\" \n", []string{"A=12"}, ""},
		{"an escaped quote does not end a part", `A="\""` + "\n", []string{`A="`}, ""},
		{"a backslash ends single quotes no more than the text", `A='\'` + "\nB=1", []string{`A=\`, "B=1"}, ""},
		{"a quote that ends with a backslash", `A="1\`, nil, `1: a quote " is not closed`},
		{"a single quote that is not closed", "B=1\n\nA='1\n", nil, "3: a quote ' is not closed"},
		{"no equals sign", "A=1\n\nexport B\n", nil, `3: "export B" is not NAME=VALUE`},
		{"a shell's export", "export A=1\n", nil, `"export A" is not the name of a variable`},
		{"a quote that is not closed", "A=1\nB=\"2\n3\n", nil, `2: a quote " is not closed`},
		{"a comment with a continuation", "# a\\\nB=2\n", nil, "1: a comment ends with"},
	} {
		t.Run(row.name, func(t *testing.T) {
			all, err := ParseEnvFile(row.text)
			if row.fails != "" {
				if err == nil || !strings.Contains(err.Error(), row.fails) {
					t.Errorf("error %v, want %q", err, row.fails)
				}
				return
			}
			var got []string
			for _, a := range all {
				got = append(got, a.Name+"="+a.Value)
			}
			if err != nil || !slices.Equal(got, row.want) {
				t.Errorf("%q, %v; want %q", got, err, row.want)
			}
		})
	}
}

func TestReadEnvFile(t *testing.T) {
	dir := t.TempDir()
	missing, large := filepath.Join(dir, "missing"), filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo") // opening it would wait for a writer, fifo(7)
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		missing: "no such file", large: "longer than", dir: "is a directory",
		fifo: "open " + fifo + ": it is a FIFO or a device",
	} {
		if _, err := ReadEnvFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if err := os.WriteFile(large, []byte("A=1\n"+strings.Repeat("\n", 1<<20-4)), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := ReadEnvFile(large); err != nil || len(all) != 1 || all[0] != (Assignment{"A", "1", 1}) {
		t.Errorf("a file of 1 MiB: %v, %v", all, err)
	}
	if err := os.WriteFile(large, []byte("\n# a\nA=\"1\n2\"\nB=\\\n3\nC\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadEnvFile("-" + large); err == nil || err.Error() != `--env-file: `+large+`:7: "C" is not NAME=VALUE` ||
		HintOf(err) != "one NAME=VALUE per line, # starts a comment line" {
		t.Errorf("a wrong line of an optional file: %v, %q", err, HintOf(err))
	}
	if all, err := ReadEnvFile("-" + missing); all != nil || err != nil {
		t.Errorf("missing optional file: %v, %v", all, err)
	}
}

// Reading a file leaves no descriptor open.
func TestEnvFileIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(path, []byte("A=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := ReadEnvFile(path); err != nil {
			t.Fatal(err)
		}
	}
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open {
		if target, err := os.Readlink(fd); err == nil && target == path {
			t.Errorf("%s is still open: %s", path, fd)
		}
	}
}

// Each assignment has the number of its first line, after values and comments of any length.
func TestLinesOfEnvFile(t *testing.T) {
	all, err := ParseEnvFile("# one\nA=1\n\n; four\nB=\"5\n6\\\n7\"\nC=8\\\n9\n \tD=10\n")
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	for _, a := range all {
		lines = append(lines, a.Line)
	}
	if !slices.Equal(lines, []int{2, 5, 8, 10}) {
		t.Errorf("lines %v of %+v", lines, all)
	}
}

// FuzzEnvFile checks that every line is parsed once, and that text without quotes,
// backslashes and comments is not modified.
func FuzzEnvFile(f *testing.F) {
	for _, text := range []string{"A=1\n", "A=\"\\\"\n\"'x'\\\n", "# c\\\n;\nA = b # c\r\n", "\ufeffA=1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseEnvFile(text)
		if err != nil {
			return
		}
		last := 0
		for _, a := range all {
			if a.Line < last || !isEnvName(a.Name) || len(a.Value) > len(text) {
				t.Fatalf("%+v after line %d", a, last)
			}
			last = a.Line
		}
		if strings.ContainsAny(text, "\"'\\#;\r\ufeff") {
			return
		}
		n := 0
		for line := range strings.Lines(text) {
			if name, value, ok := strings.Cut(line, "="); ok {
				if n >= len(all) || all[n].Name != strings.Trim(name, " \t\n") || all[n].Value != strings.Trim(value, " \t\n") {
					t.Fatalf("%q: %+v", line, all)
				}
				n++
			}
		}
		if n != len(all) {
			t.Fatalf("%d of %d assignments", len(all), n)
		}
	})
}
