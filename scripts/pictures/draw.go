package main

import (
	"fmt"
	"html"
	"strings"
)

// picture is one drawing, of fixed width. Positions are in pixels from the top
// left corner.
type picture struct {
	name, title, description string
	height                   int
	shapes                   strings.Builder
	frames                   []area // what a text must lie inside or outside of
	texts                    []area // the room that each text takes, estimated
}

const width = 880

const style = `
    .host { fill: #f6f8fa; stroke: #8c959f; stroke-dasharray: 5 4 }
    .box { fill: #ffffff; stroke: #57606a; stroke-width: 1.5 }
    .own { fill: #ddf4ff; stroke: #0969da; stroke-width: 2 }
    .name { font-weight: 600; fill: #1f2328 }
    .note { fill: #57606a; font-size: 12px }
    .mono { font-family: ui-monospace, monospace; font-size: 12px; fill: #1f2328 }
    .layer { fill: #f6f8fa; stroke: none }
    .header { fill: #ffd8b5; stroke: #bc4c00 }
    .data { fill: #d1f0d8; stroke: #1a7f37 }
    .wire { stroke: #8250df; stroke-width: 2; fill: none; marker-end: url(#wire) }
    .imports { stroke: #8c959f; stroke-width: 1.5; fill: none; marker-end: url(#other) }
    .there { stroke: #1a7f37; stroke-width: 2; fill: none; marker-end: url(#there) }
    .back { stroke: #0969da; stroke-width: 2; fill: none; marker-end: url(#back) }
    .lost { stroke: #bc4c00; stroke-width: 2; fill: none; stroke-dasharray: 4 4; marker-end: url(#lost) }
    .other { stroke: #8c959f; stroke-width: 1.5; fill: none; marker-end: url(#other); marker-start: url(#other) }`

// tips are the heads of arrows: the class and its colour.
var tips = [...][2]string{
	{"wire", "#8250df"}, {"there", "#1a7f37"}, {"back", "#0969da"}, {"lost", "#bc4c00"}, {"other", "#8c959f"},
}

// svg returns the whole file.
func (p *picture) svg() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title desc" font-family="ui-sans-serif, system-ui, sans-serif" font-size="14">
  <title id="title">%s</title>
  <desc id="desc">%s</desc>
  <style>%s
  </style>
  <defs>
`, width, p.height, width, p.height, html.EscapeString(p.title), html.EscapeString(p.description), style)
	for _, t := range tips {
		fmt.Fprintf(&b, `    <marker id="%s" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="%s"/></marker>
`, t[0], t[1])
	}
	fmt.Fprintf(&b, "  </defs>\n  <rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n%s</svg>\n",
		width, p.height, p.shapes.String())
	return b.String()
}

// area is a rectangle.
type area struct{ x, y, w, h int }

// frame draws a rectangle.
func (p *picture) frame(class string, a area, radius int) {
	fmt.Fprintf(&p.shapes, "  <rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"%d\"/>\n",
		class, a.x, a.y, a.w, a.h, radius)
	p.frames = append(p.frames, a)
}

// host draws the frame of a host or network namespace.
func (p *picture) host(a area, name string) {
	p.frame("host", a, 10)
	p.text("note", a.x+10, a.y+18, "start", name)
}

// box draws a program, with its address below its name.
func (p *picture) box(class string, a area, name, address string) {
	p.frame(class, a, 8)
	middle := a.x + a.w/2
	p.text("name", middle, a.y+a.h/2-4, "middle", name)
	p.text("mono", middle, a.y+a.h/2+16, "middle", address)
}

// label draws a piece of what is sent and returns its right edge.
func (p *picture) label(class string, x, y int, line string) int {
	a := area{x, y, textWidth("mono", line) + 10, 20}
	p.frame(class, a, 3)
	p.text("mono", a.x+a.w/2, y+14, "middle", line)
	return a.x + a.w
}

// arrow draws a line along a path of SVG, "M10 10 H50".
func (p *picture) arrow(class, path string) {
	fmt.Fprintf(&p.shapes, "  <path class=\"%s\" d=\"%s\"/>\n", class, path)
}

// text writes a line; anchor is start, middle or end.
func (p *picture) text(class string, x, y int, anchor, line string) {
	fmt.Fprintf(&p.shapes, "  <text class=\"%s\" x=\"%d\" y=\"%d\" text-anchor=\"%s\">%s</text>\n",
		class, x, y, anchor, html.EscapeString(line))
	w := textWidth(class, line)
	left := map[string]int{"start": x, "middle": x - w/2, "end": x - w}[anchor]
	p.texts = append(p.texts, area{left, y - 10, w, 13})
}

// textWidth estimates how wide a line is, by DejaVu, which is wider than the
// fonts of most browsers.
func textWidth(class, line string) int {
	perMille := map[string]int{"name": 8700, "note": 6700, "mono": 7300}[class]
	return len([]rune(line)) * perMille / 1000
}

// legend says what the arrows mean.
func (p *picture) legend(classes ...string) {
	meanings := map[string]string{
		"wire": "with a PROXY header", "there": "from the client's address", "back": "the backend's replies",
		"lost": "replies without the routes", "other": "not through the gateway",
	}
	x := 20
	for _, c := range classes {
		p.arrow(c, fmt.Sprintf("M%d %d h34", x, p.height-16))
		p.text("note", x+42, p.height-12, "start", meanings[c])
		x += 66 + textWidth("note", meanings[c])
	}
}

// pathH is a horizontal line.
func pathH(x, y, to int) string { return fmt.Sprintf("M%d %d H%d", x, y, to) }

// pathTo turns at an x to another height.
func pathTo(x, y, turn, height, to int) string {
	return fmt.Sprintf("M%d %d H%d V%d H%d", x, y, turn, height, to)
}
