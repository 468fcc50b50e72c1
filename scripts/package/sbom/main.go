// Sbom prints a program's software bill of materials in CycloneDX 1.6: the modules that
// are linked into it, from its build information. The same program gives the same bytes.
//
//	go run ./scripts/package/sbom -version 1.2.3 -date 2026-01-02T03:04:05Z PROGRAM
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	version := flag.String("version", "", "the program's version")
	date := flag.String("date", "", "when it was built, in RFC 3339")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: sbom -version VERSION -date DATE PROGRAM")
		os.Exit(2)
	}
	if err := write(os.Stdout, flag.Arg(0), *version, *date); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// write writes the bill of materials of the program at path.
func write(w io.Writer, path, version, date string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(describe(info, program{version: version, date: date, sum: sum}))
}
