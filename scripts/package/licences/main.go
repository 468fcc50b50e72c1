// Licences prints the licences of the modules that are linked into a program, and of Go,
// with their texts: most demand that copies of the program come with them. It fails if a
// module has none, one that it does not know, or one that is not accepted.
//
//	go run ./scripts/package/licences PROGRAM
//	go run ./scripts/package/licences -table PROGRAM    the table of docs/licences.md
package main

import (
	"debug/buildinfo"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	table := flag.Bool("table", false, "print a table of the names instead of the texts")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: licences [-table] PROGRAM")
		os.Exit(2)
	}
	if err := write(os.Stdout, flag.Arg(0), *table); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

// write writes the licences of the program at path.
func write(w io.Writer, path string, table bool) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	all, err := licencesOf(info)
	if err != nil {
		return err
	}
	output := texts(all)
	if table {
		output = rows(all)
	}
	_, err = io.WriteString(w, output)
	return err
}

// texts is what the packages have.
func texts(all []licence) string {
	var b strings.Builder
	b.WriteString("unproxy has these modules, under these licences.\n\n")
	for _, l := range all {
		fmt.Fprintf(&b, "%s %s: %s\n", l.module, l.version, l.name)
	}
	for _, l := range all {
		title := fmt.Sprintf("%s %s: %s", l.module, l.version, l.name)
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", title, strings.Repeat("=", len(title)), strings.TrimSpace(l.text))
	}
	return b.String()
}

// rows is the table of docs/licences.md.
func rows(all []licence) string {
	var b strings.Builder
	b.WriteString("| module | licence |\n|---|---|\n")
	for _, l := range all {
		fmt.Fprintf(&b, "| `%s` | %s |\n", l.module, l.name)
	}
	return b.String()
}
