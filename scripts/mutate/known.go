package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// known is the list of a package: the packages whose tests are run, and the mutants that
// no test can kill because they change nothing that anybody can see.
//
//	# a comment
//	tests: ./gateway/forward ./gateway/config
//	decode.go readV1: n > 107 -> n >= 107
//	decode.go readV1: n > 107 -> n > 106
//		of both: the caller has cut the line, so it changes nothing
type known struct {
	tests   []string          // patterns for go test; the package's own if there are none
	reasons map[string]string // by the name of the mutant
}

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
		switch {
		case line == "" || line[0] == '#':
		case isTests:
			k.tests = append(k.tests, strings.Fields(tests)...)
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
