package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// runsOf returns runs of a section, one per round, with one metric.
func runsOf(section, program string, m Metric, values ...float64) (all []Run) {
	for i, v := range values {
		all = append(all, Run{Section: section, Row: "64 B", Mode: "plain", Program: program, Round: i + 1,
			Values: map[Metric]float64{m: v}})
	}
	return all
}

func TestSummarize(t *testing.T) {
	for _, row := range []struct {
		values []float64
		want   Summary
	}{
		{[]float64{3}, Summary{3, 3, 3}},
		{[]float64{3, 1}, Summary{2, 1, 3}},
		{[]float64{9, 1, 2}, Summary{2, 1, 9}},
		{[]float64{4, 1, 9, 2}, Summary{3, 1, 9}},
	} {
		given := append([]float64(nil), row.values...)
		if got, ok := Summarize(row.values); !ok || got != row.want {
			t.Errorf("%v: %v, %v", row.values, got, ok)
		}
		if !reflect.DeepEqual(given, row.values) {
			t.Errorf("%v became %v", given, row.values)
		}
	}
	if _, ok := Summarize(nil); ok {
		t.Error("nothing has a median")
	}
}

// Ratios are computed for the same round of the same file, if both runs count.
func TestRatiosPairRunsOfOneRound(t *testing.T) {
	base := runsOf("bulk", Base, CPU, 2, 4, 6)
	other := runsOf("bulk", "other", CPU, 1, 8, 2)
	if got := ratios(base, other, CPU); !reflect.DeepEqual(got, []float64{2, 0.5, 3}) {
		t.Errorf("%v", got)
	}
	other[0].Failure = "1 error"
	if got := ratios(base, other, CPU); !reflect.DeepEqual(got, []float64{0.5, 3}) {
		t.Errorf("with a failure of the other: %v", got)
	}
	base[1].Failure = "1 error"
	if got := ratios(base, other, CPU); !reflect.DeepEqual(got, []float64{3}) {
		t.Errorf("with failures of both: %v", got)
	}
	other[2].file = 1
	if got := ratios(base, other, CPU); len(got) > 0 {
		t.Errorf("of different files: %v", got)
	}
	if got := ratios(base, other, P99); len(got) > 0 {
		t.Errorf("of a metric that there is not: %v", got)
	}
	if got := ratios(runsOf("bulk", Base, CPU, 1), runsOf("bulk", "other", CPU, 0), CPU); len(got) > 0 {
		t.Errorf("to 0: %v", got)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	want := append(runsOf("bulk", Base, GigabitsPerSecond, 12.5, 13),
		Run{Section: "udp", Row: "a", Mode: "plain", Program: "b", Round: 7, Failure: `it said "no"`})
	var b bytes.Buffer
	for _, r := range want {
		if err := Write(&b, r); err != nil {
			t.Fatal(err)
		}
	}
	if lines := strings.Count(b.String(), "\n"); lines != len(want) {
		t.Errorf("%d lines for %d runs", lines, len(want))
	}
	text := b.String()
	got, err := Read(strings.NewReader(text))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	twice, err := Read(strings.NewReader(text), strings.NewReader(text))
	if err != nil || len(twice) != 2*len(want) || twice[0].moment() == twice[len(want)].moment() {
		t.Errorf("of two files: %+v, %v", twice, err)
	}
	if _, err := Read(strings.NewReader(text + "{")); err == nil {
		t.Error("half a line is read")
	}
}

func TestTable(t *testing.T) {
	all := append(runsOf("bulk", "rival 1.2", GigabitsPerSecond, 10, 20, 10),
		runsOf("bulk", Base, GigabitsPerSecond, 20, 30, 40)...)
	all = append(all, Run{Section: "bulk", Row: "64 B", Mode: "plain", Program: "broken", Round: 1,
		Failure: "3 errors, the first: reset"})
	var b strings.Builder
	if err := Table(&b, all); err != nil {
		t.Fatal(err)
	}
	want := `Bulk, plain mode
As many bytes as go through; both ways: the sum.

load  program    Gbit/s   least-most  CPU ms/GB  RSS MB          Gbit/s ×  CPU ms/GB ×
64 B  unproxy     30.00  20.00-40.00          -       -                 -            -
      rival 1.2   10.00  10.00-20.00          -       -  2.00 (1.50-4.00)            -
      broken          -            -          -       -                 -            -
does not count, 1 of 1 runs: broken, 64 B: 3 errors, the first: reset
`
	if !strings.HasPrefix(b.String(), want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// Every section can be printed, has each metric once, and compares metrics that it has.
func TestSections(t *testing.T) {
	names := map[string]bool{}
	for _, s := range Sections() {
		if names[s.Name] || s.Title == "" || !strings.HasSuffix(s.About, ".") {
			t.Errorf("section %q: %q, %q", s.Name, s.Title, s.About)
		}
		names[s.Name] = true
		metrics := map[Metric]bool{}
		for _, c := range s.Columns {
			if metrics[c.Metric] {
				t.Errorf("section %s has %s twice", s.Name, c.Metric)
			}
			metrics[c.Metric] = true
		}
		if s.Rate != "" && (!metrics[s.Rate] || !metrics[s.CPU]) {
			t.Errorf("section %s compares %s and %s, which it does not show", s.Name, s.Rate, s.CPU)
		}
	}
}

func TestCharts(t *testing.T) {
	all := append(runsOf("pingpong", Base, OperationsPerSecond, 30, 31),
		runsOf("pingpong", `a <rival> & "more"`, OperationsPerSecond, 20, 1)...)
	all = append(all, runsOf("pingpong", Direct, OperationsPerSecond, 90, 90)...)
	for i, open := range []float64{1, 1000} {
		all = append(all, Run{Section: "growth", Row: string(rune('a' + i)), Mode: "plain", Program: Base, Round: 1,
			Values: map[Metric]float64{Held: open, CPU: 12}})
	}
	all = append(all, Run{Section: "growth", Row: "1000 open, all active", Mode: "plain", Program: Base, Round: 1,
		Values: map[Metric]float64{Held: 1000, CPU: 99}})
	folder := filepath.Join(t.TempDir(), "new")
	files, err := Charts(folder, all)
	if err != nil || !reflect.DeepEqual(files, []string{"bench-growth-plain.svg", "bench-plain.svg"}) {
		t.Fatalf("%v, %v", files, err)
	}
	ratio := readSVG(t, filepath.Join(folder, "bench-plain.svg"))
	for _, want := range []string{"unproxy to others, plain mode", `a <rival> & "more"`, "64 B", "16.25"} { // the median of 1.5 and 31
		if !strings.Contains(ratio, want) {
			t.Errorf("the chart does not say %q:\n%s", want, ratio)
		}
	}
	if strings.Contains(ratio, Direct) {
		t.Error("the chart compares with no gateway at all")
	}
	if growth := readSVG(t, filepath.Join(folder, "bench-growth-plain.svg")); !strings.Contains(growth, "unproxy") ||
		strings.Contains(growth, "100 µs") {
		t.Errorf("the chart of growth has what is all active:\n%s", growth)
	}
}

// readSVG returns the text of a picture, which must be well-formed and begin with a title.
func readSVG(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var text, elements []string
	for d := xml.NewDecoder(bytes.NewReader(content)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			elements = append(elements, token.Name.Local)
		case xml.CharData:
			text = append(text, string(token))
		}
	}
	if len(elements) < 3 || elements[0] != "svg" || elements[1] != "title" || elements[2] != "desc" {
		t.Errorf("%s begins with %v", path, elements[:min(3, len(elements))])
	}
	if bytes.Contains(content, []byte("NaN")) || bytes.Contains(content, []byte("Inf")) {
		t.Errorf("%s has a position that is not a number", path)
	}
	return strings.Join(text, "\n")
}

func TestNoRunsMakeNoCharts(t *testing.T) {
	files, err := Charts(t.TempDir(), runsOf("pingpong", Base, OperationsPerSecond, 30))
	if err != nil || len(files) > 0 {
		t.Errorf("%v, %v", files, err)
	}
}

func TestRoundStep(t *testing.T) {
	for v, want := range map[float64]float64{0.3: 0.5, 1: 1, 1.1: 2, 3: 5, 6: 10, 40: 50, 51: 100} {
		if got := roundStep(v); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v: %v, not %v", v, got, want)
		}
	}
}
