package report

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Charts creates a directory and writes charts to it: for each mode the ratios of unproxy to
// the others, and the cost by the number of connections. It returns the file names.
func Charts(folder string, all []Run) (files []string, err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	charts := map[string]string{}
	for _, mode := range selection(all).modes() {
		if text, ok := ratioChart(mode, selection(all).mode(mode)); ok {
			charts["bench-"+mode+".svg"] = text
		}
		if text, ok := growthChart(mode, selection(all).mode(mode).section("growth")); ok {
			charts["bench-growth-"+mode+".svg"] = text
		}
	}
	for name, text := range charts {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			return files, err
		}
		files = append(files, name)
	}
	slices.Sort(files)
	return files, nil
}

// panel is one of the two columns of bars.
type panel struct {
	left, scale float64 // position of 0, and pixels per 1
	most        float64 // longer bars are cut here
	metric      func(Section) Metric
}

const (
	panelWidth = 280.0
	barHeight  = 14.0 // a bar and the line of text beside it
	firstLine  = 96.0 // below title, legend and the panels' heads
)

// ratioChart draws bars with the ratios of unproxy to each other program, for all compared
// rows.
func ratioChart(mode string, own selection) (string, bool) {
	others := slices.DeleteFunc(own.programs(), func(p string) bool {
		return p == Base || p == Direct || !own.compared(p)
	})
	if len(others) == 0 {
		return "", false
	}
	rows, d := &drawing{}, &drawing{}
	panels := []panel{
		{left: 250, scale: panelWidth / 3, most: 3, metric: func(s Section) Metric { return s.Rate }},
		{left: 610, scale: panelWidth / 1.5, most: 1.5, metric: func(s Section) Metric { return s.CPU }},
	}
	y := firstLine
	for _, s := range Sections() {
		y = s.bars(rows, y, own.section(s.Name), others, panels)
	}
	d.text("head", 16, 26, "start", "unproxy to others, "+mode+" mode")
	d.legend(16, 52, others)
	d.text("head", panels[0].left, 80, "start", "throughput: longer is better")
	d.text("head", panels[1].left, 80, "start", "CPU for each unit: shorter is better")
	for _, p := range panels {
		p.axis(d, y)
	}
	d.shapes.WriteString(rows.shapes.String()) // above the axes
	return d.file(int(y)+30, "unproxy to others, "+mode+" mode",
		"For each load the ratio of unproxy's throughput and processor time to those of other programs; 1 is the same. "+
			"The thin lines are the least and the most of all rounds."), true
}

// compared reports whether a program has runs in a section with charts.
func (s selection) compared(program string) bool {
	for _, section := range Sections() {
		if section.Rate != "" && len(s.section(section.Name).program(program)) > 0 {
			return true
		}
	}
	return false
}

// axis draws grid lines at 0, 1 and other round values, down to y.
func (p panel) axis(d *drawing, y float64) {
	for at := 0.0; at <= p.most; at += 0.5 {
		class := "grid"
		if at == 1 {
			class = "one"
		}
		x := p.left + at*p.scale
		d.path(class, fmt.Sprintf("M%.1f %.1f V%.1f", x, firstLine-6, y))
		d.text("note", x, y+14, "middle", fmt.Sprintf("%.1f ×", at))
	}
}

// bars draws the rows of a section from y on, and returns the position below.
func (s Section) bars(d *drawing, y float64, own selection, others []string, panels []panel) float64 {
	if s.Rate == "" || len(own) == 0 {
		return y
	}
	d.text("head", 16, y+12, "start", s.Title)
	y += 20
	for _, row := range own.rows() {
		runs, top := own.row(row), y
		for colour, other := range others {
			if len(runs.program(other)) == 0 {
				continue
			}
			for _, p := range panels {
				p.bar(d, colour, y, ratios(runs.program(Base), runs.program(other), p.metric(s)))
			}
			y += barHeight
		}
		d.text("text", 28, (top+y)/2+4, "start", row)
		y += 9
	}
	return y + 8
}

// bar draws the median of ratios and their spread. An arrow marks a bar that is
// longer than the panel.
func (p panel) bar(d *drawing, colour int, y float64, ratios []float64) {
	v, ok := Summarize(ratios)
	if !ok {
		return
	}
	place := func(ratio float64) float64 { return min(ratio, p.most) * p.scale }
	d.bar(fmt.Sprintf("p%d", colour%colours), p.left, y, place(v.Median), barHeight-1)
	middle := y + barHeight/2 - 0.5
	d.path("spread", fmt.Sprintf("M%.1f %.1f H%.1f", p.left+place(v.Least), middle, p.left+place(v.Most)))
	label := fmt.Sprintf("%.2f", v.Median)
	if v.Median > p.most {
		label = "→ " + label
	}
	d.text("note", p.left+max(place(v.Median), place(v.Most))+5, y+barHeight-3, "start", label)
}
