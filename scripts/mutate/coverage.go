package main

import (
	"fmt"
	"path"
	"strings"
)

// block is a run of statements, as the coverage profile has it.
type block struct {
	fromLine, fromColumn, toLine, toColumn int
	reached                                bool
}

func (b block) contains(m mutant) bool {
	after := m.line > b.fromLine || m.line == b.fromLine && m.column >= b.fromColumn
	before := m.line < b.toLine || m.line == b.toLine && m.column < b.toColumn
	return after && before
}

// inside reports whether b lies within other, as the body of a function literal does.
func (b block) inside(other block) bool {
	return b.fromLine > other.fromLine || b.fromLine == other.fromLine && b.fromColumn >= other.fromColumn
}

// coverage is the profile of one package, by the name of the file.
type coverage map[string][]block

// parseCoverage reads a profile of go test -coverprofile.
func parseCoverage(profile string) (coverage, error) {
	c := coverage{}
	for _, line := range strings.Split(strings.TrimSpace(profile), "\n")[1:] {
		file, rest, _ := strings.Cut(line, ":")
		var b block
		var statements, count int
		if _, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d",
			&b.fromLine, &b.fromColumn, &b.toLine, &b.toColumn, &statements, &count); err != nil {
			return nil, fmt.Errorf("coverage profile, line %q: %v", line, err)
		}
		b.reached = count > 0
		c[path.Base(file)] = append(c[path.Base(file)], b)
	}
	return c, nil
}

// reaches reports whether a test runs the code of a mutant. Declarations outside of
// functions are in no block and count as reached.
func (c coverage) reaches(m mutant) bool {
	var innermost *block
	reached := false
	for _, b := range c[m.file] {
		if !b.contains(m) || innermost != nil && !b.inside(*innermost) {
			continue
		}
		same := innermost != nil && *innermost != b && innermost.fromLine == b.fromLine && innermost.fromColumn == b.fromColumn
		reached = b.reached || same && reached // a profile of several packages has a block once for each
		innermost = &b
	}
	return innermost == nil || reached
}
