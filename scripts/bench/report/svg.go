package report

import (
	"fmt"
	"html"
	"strings"
)

// drawing is an SVG picture of fixed width. Positions are in pixels from the top left corner.
type drawing struct{ shapes strings.Builder }

const drawingWidth = 960

// palette has the colours of the light or dark scheme: for paper, ink, notes and grid, and for
// the programs, in turn.
type palette struct {
	paper, ink, note, grid string
	programs               [colours]string
}

// colours is the number of programs with different colours.
const colours = 6

func light() palette {
	return palette{"#ffffff", "#1f2328", "#57606a", "#d0d7de",
		[...]string{"#0969da", "#1a7f37", "#bc4c00", "#8250df", "#bf3989", "#4d6069"}}
}

func dark() palette {
	return palette{"#0d1117", "#e6edf3", "#9198a1", "#3d444d",
		[...]string{"#4493f8", "#3fb950", "#f0883e", "#ab7df8", "#db61a2", "#8c9ea8"}}
}

// style returns the CSS classes of a palette.
func (p palette) style() string {
	var b strings.Builder
	fmt.Fprintf(&b, `
    .paper { fill: %[1]s }
    .text { fill: %[2]s }
    .head { fill: %[2]s; font-weight: 600 }
    .note { fill: %[3]s; font-size: 11px; paint-order: stroke; stroke: %[1]s; stroke-width: 3px }
    .grid { stroke: %[4]s; stroke-width: 1; fill: none }
    .one { stroke: %[2]s; stroke-width: 1.5; fill: none }
    .spread { stroke: %[2]s; stroke-width: 1; fill: none; opacity: 0.6 }
`, p.paper, p.ink, p.note, p.grid)
	for i, colour := range p.programs {
		fmt.Fprintf(&b, "    .p%d { fill: %s } .l%d { stroke: %s; stroke-width: 2; fill: none }\n", i, colour, i, colour)
	}
	return b.String()
}

// file returns the complete file. Title and description are for screen readers.
func (d *drawing) file(height int, title, description string) string {
	style := light().style() + "    @media (prefers-color-scheme: dark) {" + dark().style() + "    }\n"
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title desc" font-family="ui-sans-serif, system-ui, sans-serif" font-size="13">
  <title id="title">%s</title>
  <desc id="desc">%s</desc>
  <style>%s  </style>
  <rect class="paper" width="%d" height="%d"/>
%s</svg>
`, drawingWidth, height, drawingWidth, height, html.EscapeString(title),
		html.EscapeString(description), style, drawingWidth, height, d.shapes.String())
}

// text writes a line; anchor is start, middle or end.
func (d *drawing) text(class string, x, y float64, anchor, line string) {
	fmt.Fprintf(&d.shapes, "  <text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", class, x, y,
		anchor, html.EscapeString(line))
}

// path draws a line along a path of SVG, "M10 10 H50".
func (d *drawing) path(class, path string) {
	fmt.Fprintf(&d.shapes, "  <path class=\"%s\" d=\"%s\"/>\n", class, path)
}

func (d *drawing) bar(class string, x, y, width, height float64) {
	fmt.Fprintf(&d.shapes, "  <rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", class, x, y,
		width, height)
}

// legend draws the colours of the programs, from x on at y.
func (d *drawing) legend(x, y float64, programs []string) {
	for i, p := range programs {
		d.bar(fmt.Sprintf("p%d", i%colours), x, y-9, 12, 10)
		d.text("text", x+18, y, "start", p)
		x += 40 + 7.5*float64(len(p))
	}
}
