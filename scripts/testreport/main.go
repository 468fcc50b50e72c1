// Testreport summarizes the output of "go test -json": a line for each package, the
// complete output of each failed test, and at the end each skipped test with its reason.
// It exits with 1 if anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	r.finish()
	if len(r.failed) > 0 {
		os.Exit(1)
	}
}

// event is one line of "go test -json": see "go doc test2json".
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string
	Elapsed                       float64
}

// test identifies a test, or a package if name is empty.
type test struct{ pkg, name string }

// report collects the events of one run.
type report struct {
	out     io.Writer
	output  map[test][]string
	passed  int
	failed  []test
	skipped []test
}

func newReport(out io.Writer) *report {
	return &report{out: out, output: make(map[test][]string)}
}

// read reads events to the end of in. It prints lines that are not events, such as
// compiler errors of older toolchains.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(r.out, lines.Text())
			continue
		}
		r.take(e)
	}
	return lines.Err()
}

func (r *report) take(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		r.output[t] = append(r.output[t], e.Output)
	case "pass":
		r.end(t, "ok  ", e.Elapsed)
	case "fail":
		r.failed = append(r.failed, t)
		r.end(t, "FAIL", e.Elapsed)
	case "skip":
		if t.name != "" {
			r.skipped = append(r.skipped, t)
		}
	}
}

// end prints the result of a package and the output of its failed tests. The output of a
// test appears below the line of its package.
func (r *report) end(t test, verdict string, seconds float64) {
	if t.name != "" {
		if verdict == "ok  " {
			r.passed++
		}
		return
	}
	fmt.Fprintf(r.out, "  %s  %-48s %6.1fs\n", verdict, t.pkg, seconds)
	for _, f := range r.failed {
		if f.pkg == t.pkg {
			fmt.Fprint(r.out, strings.Join(r.output[f], ""))
		}
	}
}

func (r *report) finish() {
	fmt.Fprintf(r.out, "  %d tests passed, %d failed, %d skipped\n", r.passed, countTests(r.failed), len(r.skipped))
	for _, t := range r.skipped {
		fmt.Fprintf(r.out, "  skipped %s %s: %s\n", t.pkg, t.name, r.reason(t))
	}
}

// reason returns the output of a test before it was skipped.
func (r *report) reason(t test) string {
	var why []string
	for _, line := range r.output[t] {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		why = append(why, line)
	}
	return strings.Join(why, "; ")
}

func countTests(all []test) int {
	n := 0
	for _, t := range all {
		if t.name != "" {
			n++
		}
	}
	return n
}
