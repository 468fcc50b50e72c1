package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The pictures of the documentation are those that this program draws, and are
// well-formed.
func TestPicturesAreUpToDate(t *testing.T) {
	drawn := pictures()
	kept, err := filepath.Glob("../../docs/pictures/*.svg")
	if err != nil || len(kept) != len(drawn) {
		t.Errorf("docs/pictures has %d pictures, %v; want %d", len(kept), err, len(drawn))
	}
	for _, p := range drawn {
		want := p.svg()
		got, err := os.ReadFile(filepath.Join("../../docs/pictures", p.name+".svg"))
		if err != nil || string(got) != want {
			t.Errorf("%s is not what is drawn: go run ./scripts/pictures docs/pictures (%v)", p.name, err)
		}
		for d := xml.NewDecoder(strings.NewReader(want)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", p.name, err)
			}
		}
	}
}

// overlap says whether two areas have room in common.
func overlap(a, b area) bool {
	return a.x < b.x+b.w && b.x < a.x+a.w && a.y < b.y+b.h && b.y < a.y+a.h
}

// inside says whether a lies in b, with a margin at each side.
func inside(a, b area, margin int) bool {
	return a.x >= b.x+margin && a.x+a.w <= b.x+b.w-margin && a.y >= b.y && a.y+a.h <= b.y+b.h
}

// fault returns what is wrong with where the texts of a picture are, or "": each
// must be on the canvas, clear of the others, and inside or outside of each frame.
func fault(p *picture) string {
	for i, a := range p.texts {
		if !inside(a, area{0, 0, width, p.height}, 2) {
			return fmt.Sprintf("text %d is cut off: %v", i, a)
		}
		for j, b := range p.texts[:i] {
			if overlap(a, b) {
				return fmt.Sprintf("texts %d and %d overlap: %v, %v", j, i, b, a)
			}
		}
		for _, f := range p.frames {
			if overlap(a, f) && !inside(a, f, 3) {
				return fmt.Sprintf("text %d, %v, crosses the edge of %v", i, a, f)
			}
		}
	}
	return ""
}

// Texts are on the canvas and do not run into each other or over an edge.
func TestTextFits(t *testing.T) {
	for _, p := range pictures() {
		if f := fault(p); f != "" {
			t.Errorf("%s: %s", p.name, f)
		}
	}
	for name, draw := range map[string]func(p *picture){
		"cut off":  func(p *picture) { p.text("note", 870, 20, "start", "caption") },
		"overlap":  func(p *picture) { p.text("note", 20, 20, "start", "one"); p.text("note", 30, 25, "start", "two") },
		"crossing": func(p *picture) { p.box("box", area{20, 20, 60, 60}, "load balancer", "") },
	} {
		p := &picture{height: 100}
		if draw(p); fault(p) == "" {
			t.Errorf("%s: no fault found", name)
		}
	}
}

// modulesByPath returns the pictured modules by their import paths.
func modulesByPath() map[string]module {
	all := map[string]module{}
	for _, m := range modules {
		for _, path := range m.paths {
			all[strings.TrimSuffix("unproxy/"+path, "/")] = m
		}
	}
	return all
}

// importsOf returns the imports between the pictured modules that the program
// has, and the packages that are not in the picture.
func importsOf(t *testing.T) (real map[[2]string]bool, strangers []string) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`,
		"unproxy", "unproxy/gateway/...", "unproxy/trust/...", "unproxy/transparent/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	real, byPath := map[[2]string]bool{}, modulesByPath()
	for line := range strings.Lines(string(out)) {
		paths := strings.Fields(line)
		from, drawn := byPath[paths[0]]
		if !drawn {
			strangers = append(strangers, paths[0])
		}
		for _, path := range paths[1:] {
			if to, ours := byPath[path]; ours && to.name != from.name {
				real[[2]string{from.name, to.name}] = true
			}
		}
	}
	return real, strangers
}

// The picture of the packages has all of them, its arrows are imports, and every
// import leads down.
func TestPackagesPictureMatchesImports(t *testing.T) {
	real, strangers := importsOf(t)
	if len(strangers) > 0 {
		t.Errorf("not in the picture: %q", strangers)
	}
	for _, i := range imports {
		if !real[i] {
			t.Errorf("%s does not import %s", i[0], i[1])
		}
	}
	for i := range real {
		if find(i[1]).row <= find(i[0]).row {
			t.Errorf("%s imports %s, which is not below it", i[0], i[1])
		}
	}
}
