package integration_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// declaredTests returns the names of all tests and fuzz targets of the repository.
func declaredTests(t *testing.T) (all []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			all = append(all, names(string(readFile(t, path)), `(?m)^func ((?:Test|Fuzz)\w+)\(`)...)
		}
		return err
	})
	if err != nil || len(all) < 500 {
		t.Fatalf("found %d tests, %v", len(all), err)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Each promise of docs/security.md names the tests that hold it, and the tests that the
// documents name exist.
func TestNamedTestsExist(t *testing.T) {
	declared := declaredTests(t)
	for _, document := range []string{"../docs/security.md", "../docs/reliability.md"} {
		for _, name := range names(string(readFile(t, document)), "`((?:Test|Fuzz)[A-Z]\\w*)`") {
			if _, exists := slices.BinarySearch(declared, name); !exists {
				t.Errorf("%s names %s, which is no test", document, name)
			}
		}
	}
	_, promises, _ := strings.Cut(string(readFile(t, "../docs/security.md")), "\n## Promises\n")
	promises, _, _ = strings.Cut(promises, "\n## ")
	rows := regexp.MustCompile(`(?m)^\| ([^|]+[.]) \| ([^|]+) \|$`).FindAllStringSubmatch(promises, -1)
	if lines := strings.Count(promises, "\n| ") - strings.Count(promises, "\n| promise |"); len(rows) < 30 || len(rows) != lines {
		t.Errorf("docs/security.md has %d promises in %d rows", len(rows), lines)
	}
	for _, row := range rows {
		holders := names(row[2], "`([\\w/]+)`")
		if len(holders) == 0 {
			t.Errorf("no test holds %q", row[1])
		}
		for _, holder := range holders {
			_, isTest := slices.BinarySearch(declared, holder)
			if _, err := os.Stat(filepath.Join("..", holder)); err != nil && !isTest {
				t.Errorf("%q is held by %s, which is neither a test nor a script", row[1], holder)
			}
		}
	}
}

// Scripts run tools at the versions of scripts/tools/go.mod, never one that is looked up
// when they run.
func TestToolsArePinned(t *testing.T) {
	unpinned := regexp.MustCompile(`\bgo (?:run|install|get)\b[^\n]*@|curl [^\n]*\| *(?:ba)?sh\b|:latest\b`)
	for text, want := range map[string]bool{
		"go install honnef.co/go/tools/cmd/staticcheck@latest": true, "go run golang.org/x/vuln/cmd/govulncheck@v1.1.0 ./...": true,
		"curl -sf https://example.com/install | sh": true, "FROM golang:latest": true,
		"go run ./scripts/bench --quick": false, "go tool -modfile=scripts/tools/go.mod -n nfpm": false,
	} {
		if unpinned.MatchString(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
	read := 0
	err := filepath.WalkDir("../scripts", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		read++
		for number, line := range strings.Split(string(readFile(t, path)), "\n") {
			if unpinned.MatchString(line) && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				t.Errorf("%s:%d: %s", path, number+1, line)
			}
		}
		return nil
	})
	if err != nil || read < 50 {
		t.Errorf("read %d files of ../scripts, %v", read, err)
	}
}
