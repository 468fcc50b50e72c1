package packages_test

import (
	"debug/buildinfo"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

// checkLicences compares docs/licences.md and the licences in the archive with the modules
// of the program: each is listed with the same licence, and its text is there.
func checkLicences(t *testing.T, dist, architecture string) {
	info, err := buildinfo.ReadFile(filepath.Join(dist, "unproxy-linux-"+architecture))
	if err != nil {
		t.Fatal(err)
	}
	modules, versions := []string{"std"}, map[string]string{"std": strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		modules, versions[m.Path] = append(modules, m.Path), m.Version
	}
	dir := t.TempDir()
	lab.Output(t, "tar", "-C", dir, "-xzf", found(t, dist, "*-"+architecture+".tar.gz"))
	texts := readFile(t, filepath.Join(dir, "unproxy-1.2.3-linux-"+architecture, "licences.txt"))

	var listed []string
	for line := range strings.Lines(readFile(t, "../../docs/licences.md")) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		module, name := strings.Trim(cells[1], " `"), strings.TrimSpace(cells[2])
		listed = append(listed, module)
		title := module + " " + versions[module] + ": " + name
		if !strings.Contains(texts, "\n"+title+"\n"+strings.Repeat("=", len(title))+"\n\n") {
			t.Errorf("licences.txt has no text under %q", title)
		}
	}
	if len(modules) < 10 || !slices.Equal(listed, modules) {
		t.Errorf("docs/licences.md lists\n%q\nand the program has\n%q: run scripts/package/licences -table", listed, modules)
	}
}
