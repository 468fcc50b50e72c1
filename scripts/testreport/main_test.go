package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const stream = `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: it broke\n"}
{"Action":"fail","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:2: nginx is not installed\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestC","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"p","Elapsed":0.2}
{"Action":"build-output","ImportPath":"q","Output":"q.go:1: undefined\n"}
{"Action":"fail","Package":"q","Elapsed":0}
`
	var out strings.Builder
	r := newReport(&out)
	if err := r.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	r.finish()
	got := out.String()
	for _, want := range []string{
		"FAIL  p ", "a_test.go:1: it broke", "q.go:1: undefined", "FAIL  q ",
		"1 tests passed, 1 failed, 1 skipped",
		"skipped p TestB: b_test.go:2: nginx is not installed",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "quiet") {
		t.Errorf("the output of a test that passed is shown:\n%s", got)
	}
	if len(r.failed) != 3 {
		t.Errorf("%d failures, want TestA, p and q", len(r.failed))
	}
}
