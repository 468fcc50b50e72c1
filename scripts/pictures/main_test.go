package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The pictures of the documentation are those that this program draws, and are
// well-formed.
func TestPictures(t *testing.T) {
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
