package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// known is the list of a package: the packages whose tests are run and in what order, and
// the mutants that no test can kill because they change nothing that anybody can see.
//
//	# a comment
//	tests: ./gateway/forward ./gateway/config
//	later: TestAllPairs|TestReal
//	decode.go readV1: n > 107 -> n >= 107
//	decode.go readV1: n > 107 -> n > 106
//		of both: the caller has cut the line, so it changes nothing
type known struct {
	tests   []string          // patterns for go test; the package's own if there are none
	later   string            // tests that are run only if all others pass, as for go test -run
	reasons map[string]string // by the name of the mutant
}

// selection says which tests are run, as go test -run and -skip do, and which of them only
// if all others pass: those that take long.
type selection struct{ run, skip, later string }

// stages returns what is run one after the other.
func (s selection) stages() []selection {
	if s.later == "" {
		return []selection{s}
	}
	return []selection{{skip: either(s.skip, s.later)}, {run: s.later, skip: s.skip}}
}

// without returns a selection that leaves out more tests, by their names.
func (s selection) without(names []string) selection {
	if len(names) > 0 {
		s.skip = either(s.skip, "^("+strings.Join(names, "|")+")$")
	}
	return s
}

// either returns a pattern for what one of two matches; an empty one matches nothing.
func either(a, b string) string { return strings.TrimPrefix(a+"|"+b, "|") }

func (s selection) flags() []string { return []string{"-test.run=" + s.run, "-test.skip=" + s.skip} }

// listOf returns the path of a package's list: a name for each, as in gateway-forward.txt.
func listOf(directory string) string {
	return filepath.Join("scripts/mutate/survivors", strings.ReplaceAll(filepath.ToSlash(directory), "/", "-")+".txt")
}

// readKnown reads a list. One that does not exist is empty.
func readKnown(path string) (known, error) {
	k := known{reasons: map[string]string{}}
	content, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	var group []string // the mutants that the next reason is for
	ended := false     // the group has a reason
	for number, line := range strings.Split(string(bytes.TrimRight(content, "\n")), "\n") {
		problem := func(text string) error { return fmt.Errorf("%s:%d: %s: %q", path, number+1, text, line) }
		tests, isTests := strings.CutPrefix(line, "tests:")
		later, isLater := strings.CutPrefix(line, "later:")
		switch {
		case line == "" || line[0] == '#':
		case isTests:
			k.tests = append(k.tests, strings.Fields(tests)...)
		case isLater:
			k.later = strings.TrimSpace(later)
		case line[0] == '\t' && len(group) == 0:
			return k, problem("a reason without a mutant")
		case line[0] == '\t':
			ended = true
			for _, name := range group {
				k.reasons[name] = strings.TrimSpace(k.reasons[name] + " " + strings.TrimSpace(line))
			}
		default:
			if _, twice := k.reasons[line]; twice {
				return k, problem("a mutant is listed twice")
			}
			if ended {
				group, ended = nil, false
			}
			group = append(group, line)
			k.reasons[line] = ""
		}
	}
	for name, reason := range k.reasons {
		if reason == "" {
			return k, fmt.Errorf("%s: no reason, in a line that begins with a tab, for %q", path, name)
		}
	}
	return k, nil
}
