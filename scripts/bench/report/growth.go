package report

import (
	"fmt"
	"math"
	"strings"
)

// point is the cost of an operation with a number of open connections.
type point struct{ connections, cpu float64 }

// The frame of the growth chart.
const (
	growthLeft, growthRight = 70.0, drawingWidth - 30.0
	growthTop, growthBottom = 80.0, 380.0
)

// growthChart draws, for each program, the processor time per operation by the number of
// open connections.
func growthChart(mode string, own selection) (string, bool) {
	lines, names := [][]point{}, []string{}
	most, cpu := 1.0, 0.0
	for _, p := range own.programs() {
		line := own.program(p).growth()
		if len(line) < 2 {
			continue
		}
		lines, names = append(lines, line), append(names, p)
		for _, at := range line {
			most, cpu = max(most, at.connections), max(cpu, at.cpu)
		}
	}
	if len(lines) == 0 {
		return "", false
	}
	d := &drawing{}
	x := func(connections float64) float64 {
		return growthLeft + (growthRight-growthLeft)*math.Log10(connections)/math.Ceil(math.Log10(most))
	}
	step := roundStep(cpu / 4)
	top := math.Ceil(cpu/step) * step
	y := func(cpu float64) float64 { return growthBottom - (growthBottom-growthTop)*cpu/top }
	for at := 0.0; at <= top; at += step {
		d.path("grid", fmt.Sprintf("M%.1f %.1f H%.1f", growthLeft, y(at), growthRight))
		d.text("note", growthLeft-8, y(at)+4, "end", fmt.Sprintf("%g µs", at))
	}
	for at := 1.0; at <= math.Pow(10, math.Ceil(math.Log10(most))); at *= 10 {
		d.text("note", x(at), growthBottom+18, "middle", fmt.Sprintf("%.0f", at))
	}
	d.text("note", (growthLeft+growthRight)/2, growthBottom+36, "middle",
		"open connections, of which at most 64 are active")
	for i, line := range lines {
		d.line(i, line, x, y)
	}
	title := "CPU for each operation with more connections, " + mode + " mode"
	d.text("head", 16, 26, "start", title)
	d.legend(16, 54, names)
	return d.file(int(growthBottom)+52, title,
		"Processor time of the gateway for one request and answer of 64 bytes, by the number of open connections."), true
}

// line draws a line through points, with a dot at each.
func (d *drawing) line(colour int, points []point, x, y func(float64) float64) {
	var path strings.Builder
	for i, p := range points {
		fmt.Fprintf(&path, "%s%.1f %.1f ", [...]string{"M", "L"}[min(i, 1)], x(p.connections), y(p.cpu))
		d.bar(fmt.Sprintf("p%d", colour%colours), x(p.connections)-3, y(p.cpu)-3, 6, 6)
	}
	d.path(fmt.Sprintf("l%d", colour%colours), strings.TrimSpace(path.String()))
}

// growth returns the points of a program, from the rows with idle connections.
func (s selection) growth() (points []point) {
	for _, row := range s.rows() {
		held, is := Summarize(values(s.row(row), Held))
		cpu, has := Summarize(values(s.row(row), CPU))
		if is && has && !strings.HasSuffix(row, "all active") {
			points = append(points, point{held.Median, cpu.Median})
		}
	}
	return points
}

// roundStep returns the smallest of 1, 2, 5, 10, 20 and so on that is at least v.
func roundStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 5} {
		if n*power >= v {
			return n * power
		}
	}
	return 10 * power
}
