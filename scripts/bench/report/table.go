package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Table prints a table for each section and mode with runs.
func Table(w io.Writer, all []Run) error {
	var b strings.Builder
	for _, mode := range selection(all).modes() {
		for _, s := range Sections() {
			if own := selection(all).section(s.Name).mode(mode); len(own) > 0 {
				s.table(&b, mode, own)
			}
		}
	}
	fmt.Fprint(&b, `Medians, and behind a rate the least and the most of all rounds. A column such as
"op/s ×" is the ratio of unproxy to the program: the median of the ratios of runs that
followed each other, and the least and the most of them. CPU is the run time of the
gateway's threads, RSS its memory; latencies are within 1 %. A run with an error does
not count.
`)
	_, err := io.WriteString(w, b.String())
	return err
}

func (s Section) table(b *strings.Builder, mode string, own selection) {
	fmt.Fprintf(b, "%s, %s mode\n%s\n\n", s.Title, mode, s.About)
	lines := [][]string{s.head()}
	for _, row := range own.rows() {
		runs := own.row(row)
		for _, p := range runs.programs() {
			line := s.line(runs.program(Base), runs.program(p))
			lines = append(lines, append([]string{row, p}, line...))
			row = ""
		}
	}
	align(b, lines)
	s.failures(b, own)
	b.WriteByte('\n')
}

// head returns the header line of a table: metrics, then ratios.
func (s Section) head() []string {
	head := []string{"load", "program"}
	for i, c := range s.Columns {
		head = append(head, c.Title)
		if i == 0 {
			head = append(head, "least-most")
		}
	}
	for _, c := range s.Columns {
		if c.Ratio {
			head = append(head, c.Title+" ×")
		}
	}
	return head
}

// line returns the line of a program.
func (s Section) line(base, own []Run) (cells []string) {
	for i, c := range s.Columns {
		v, ok := Summarize(values(own, c.Metric))
		cells = append(cells, cell(ok, number(v.Median, c.Decimals)))
		if i == 0 {
			cells = append(cells, cell(ok, number(v.Least, c.Decimals)+"-"+number(v.Most, c.Decimals)))
		}
	}
	for _, c := range s.Columns {
		if !c.Ratio {
			continue
		}
		v, ok := Summarize(ratios(base, own, c.Metric))
		ok = ok && own[0].Program != Base
		cells = append(cells, cell(ok, fmt.Sprintf("%.2f (%.2f-%.2f)", v.Median, v.Least, v.Most)))
	}
	return cells
}

func cell(is bool, text string) string {
	if !is {
		return "-"
	}
	return text
}

func number(v float64, decimals int) string { return strconv.FormatFloat(v, 'f', decimals, 64) }

// failures lists the reasons why runs do not count.
func (s Section) failures(b *strings.Builder, own selection) {
	type kind struct{ row, program, failure string }
	counts, order := map[kind]int{}, []kind{}
	for _, r := range own {
		k := kind{r.Row, r.Program, r.Failure}
		if r.Failure == "" {
			continue
		}
		if counts[k] == 0 {
			order = append(order, k)
		}
		counts[k]++
	}
	for _, k := range order {
		fmt.Fprintf(b, "does not count, %d of %d runs: %s, %s: %s\n", counts[k], len(own.row(k.row).program(k.program)),
			k.program, k.row, k.failure)
	}
}

// align writes lines of cells in columns: the first two aligned to the left, numbers to the
// right.
func align(b *strings.Builder, lines [][]string) {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, line := range lines {
		var text strings.Builder
		for i, c := range line {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i < 2 {
				text.WriteString(c + space + "  ")
				continue
			}
			text.WriteString(space + c + "  ")
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
}
