package usage

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"unproxy/gateway/config"
	"unproxy/trust"
)

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"none", nil, ExitSuccess},
		{"a failure", io.ErrUnexpectedEOF, ExitFailure},
		{"a usage error", Errorf("x"), ExitUsage},
		{"a usage error, wrapped", fmt.Errorf("x: %w", Errorf("y")), ExitUsage},
		{"a setting", config.NewProblem("x", ""), ExitUsage},
		{"a trust rule", &trust.Error{Problem: "x"}, ExitUsage},
		{"a failure and a setting", errors.Join(io.EOF, config.NewProblem("x", "")), ExitUsage},
		{"reported", Reported(ExitHostCheck), ExitHostCheck},
	} {
		if got := ExitCode(tt.err); got != tt.want {
			t.Errorf("%s: exit code %d; want %d", tt.name, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	var out strings.Builder
	Report(&out, errors.Join(
		Errorf("one").WithHint("do this"),
		errors.Join(Errorf("two\nlines").WithHint("do this"), io.EOF),
		Reported(1),
	))
	const want = "unproxy: error: one\nunproxy: hint: do this\nunproxy: error: two; lines\nunproxy: error: EOF\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// At most twenty problems are printed, however the errors are nested.
func TestReportCounts(t *testing.T) {
	for _, tt := range []struct {
		problems int
		last     string
	}{
		{20, "unproxy: error: problem 20"},
		{21, "unproxy: error: and 1 more"},
		{500, "unproxy: error: and 480 more"},
	} {
		errs := []error{Reported(ExitFailure)}
		for i := range tt.problems {
			errs = append(errs, Errorf("problem %d", i+1))
		}
		var out strings.Builder
		Report(&out, errors.Join(errs...))
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if want := min(tt.problems, maxProblems+1); len(lines) != want || lines[len(lines)-1] != tt.last {
			t.Errorf("%d problems: %d lines, the last is %q; want %d and %q",
				tt.problems, len(lines), lines[len(lines)-1], want, tt.last)
		}
	}
}
