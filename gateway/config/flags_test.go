package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated parts of docs/flags.md")

const flagsPage = "../../docs/flags.md"

// cell escapes a text for a cell of a Markdown table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// code is cell for code.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + cell(text) + "`"
}

// flagsTable returns the table of a group.
func flagsTable(g Group) string {
	var b strings.Builder
	b.WriteString("| flag | meaning | default | variable | key |\n|---|---|---|---|---|\n")
	for i := range table {
		s := &table[i]
		if s.Group != g {
			continue
		}
		meaning := cell(s.meaning())
		key := ""
		if s.IsKey() {
			key = s.Name
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n",
			code(strings.TrimSpace("--"+s.Name+" "+s.Argument)), meaning, cell(s.Default), code(s.Variable()), code(key))
	}
	return b.String()
}

// TestFlagsPage checks that docs/flags.md agrees with the table of settings.
func TestFlagsPage(t *testing.T) {
	content, err := os.ReadFile(flagsPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	for g := GroupForward; g <= GroupLog; g++ {
		begin := fmt.Sprintf("<!-- generated: %s -->\n", g)
		before, rest, ok1 := strings.Cut(page, begin)
		got, after, ok2 := strings.Cut(rest, "<!-- end -->\n")
		if !ok1 || !ok2 {
			t.Errorf("%s has no section for the flags of %s", flagsPage, g)
			continue
		}
		want := flagsTable(g)
		if got != want && !*update {
			t.Errorf("the flags of %s in %s are out of date: go test ./gateway/config -run TestFlagsPage -update",
				g, flagsPage)
		}
		page = before + begin + want + "<!-- end -->\n" + after
	}
	if *update {
		if err := os.WriteFile(flagsPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
