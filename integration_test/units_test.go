package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

// units copies the shipped units to a temporary directory, replaces the installed
// program in them by the one under test, and returns the path of the service.
func units(t *testing.T, dropIn bool) string {
	t.Helper()
	dir := t.TempDir()
	put := func(from, to string) {
		t.Helper()
		text := strings.ReplaceAll(string(readFile(t, "../scripts/systemd/"+from)), "/usr/bin/unproxy", lab.Binary(t))
		path := filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("unproxy.service", "unproxy.service")
	put("unproxy.socket", "unproxy.socket")
	if dropIn {
		put("transparent.conf", "unproxy.service.d/transparent.conf")
	}
	return filepath.Join(dir, "unproxy.service")
}

// systemd-analyze verifies the units, and rates their exposure at most 2.0 of 10.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	lab.Require(t, "systemd-analyze")
	for name, dropIn := range map[string]bool{"plain": false, "transparent": true} {
		service := units(t, dropIn)
		for _, args := range [][]string{
			{"verify", service, strings.TrimSuffix(service, "service") + "socket"},
			{"security", "--offline=true", "--threshold=20", "--no-pager", service},
		} {
			output, code := lab.Run(t, lab.Command{Name: "systemd-analyze", Args: args})
			if code != 0 || args[0] == "verify" && strings.Contains(output, "unproxy") {
				t.Errorf("%s: systemd-analyze %s: exit code %d:\n%s", name, args[0], code, output)
			}
		}
	}
}
