package main

import (
	"fmt"
	"slices"
	"strings"
)

// mutant is one small change of a source file.
type mutant struct {
	id       int    // from 1, in the package
	file     string // its name, without directory
	line     int
	column   int
	function string // "" outside of functions
	from, to int    // the bytes that text replaces
	text     string
	before   string // what is changed, in one line
	after    string
	nth      int  // among equal changes in the function, from 1
	switched bool // part of the program that has all mutants at once; see splice
}

// name identifies a mutant as long as the changed expression stays in its function:
// line numbers would not.
func (m mutant) name() string {
	place := m.file
	if m.function != "" {
		place += " " + m.function
	}
	name := fmt.Sprintf("%s: %s -> %s", place, m.before, m.after)
	if m.nth > 1 {
		name += fmt.Sprintf(" #%d", m.nth)
	}
	return name
}

// apply returns the source with the change.
func (m mutant) apply(source []byte) []byte {
	return slices.Concat(source[:m.from], []byte(m.text), source[m.to:])
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
