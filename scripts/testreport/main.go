// Testreport reads what "go test -json" writes and tells it to a person: a
// line per package, the whole output of what failed, and at the end each
// skipped test with its reason. It exits with 1 when anything failed.
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

// test names a test; with an empty name it is the package itself.
type test struct{ pkg, name string }

// report gathers the events of one run.
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

// read takes events to the end of r. A line that is not an event, as the
// compiler's complaints are with older toolchains, is passed on.
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

// end tells how a package ended and what its failing tests said; of a test
// it keeps the output, which belongs under its package's line.
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

// reason is all that a test said before it was skipped.
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
