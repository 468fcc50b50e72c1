package kernel

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The mode of a socket is set, and nothing else has its mode changed: not the target of
// a link that took the socket's place, nor a file.
func TestChmodSocketFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	l, err := net.Listen("unix", path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(path("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"to-file": "file", "to-socket": "socket", "to-nothing": "nothing"} {
		if err := os.Symlink(path(target), path(link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct{ name, fails string }{
		{"socket", ""},
		{"file", "no longer a socket"},
		{"to-file", "no longer a socket"},
		{"to-socket", "no longer a socket"},
		{"to-nothing", "no longer a socket"},
		{"nothing", "no such file"},
		{".", "no longer a socket"},
	} {
		before := modeOf(t, path("file"))
		err := ChmodSocket(path(row.name), 0o606)
		if row.fails == "" && err != nil || row.fails != "" && (err == nil || !strings.Contains(err.Error(), row.fails)) {
			t.Errorf("%s: %v; want %q", row.name, err, row.fails)
		}
		if got := modeOf(t, path("file")); got != before {
			t.Errorf("%s: the file's mode became %v", row.name, got)
		}
	}
	if got := modeOf(t, path("socket")); got != 0o606 {
		t.Errorf("the socket's mode is %v, want 0606", got)
	}
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}
