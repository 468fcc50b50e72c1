package attach

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// The compiler whose output is committed: that of Debian 12.
const compilerVersion = "14.0.6"

// The committed object files are what scripts/bpf makes of the sources, in any folder.
func TestObjectsAreOfTheSources(t *testing.T) {
	version, err := exec.Command("clang-14", "-dumpversion").Output()
	if err != nil {
		t.Skipf("clang-14 is not installed: %v", err)
	}
	if got := strings.TrimSpace(string(version)); got != compilerVersion {
		t.Skipf("clang-14 is of version %s, not %s", got, compilerVersion)
	}
	if _, err := exec.LookPath("llvm-strip-14"); err != nil {
		t.Skip("llvm-strip-14 is not installed")
	}
	// A copy elsewhere: the path must not be in the files.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "scripts"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bpf", "testdata"} {
		if err := os.CopyFS(filepath.Join(dir, "transparent/toa/attach", name), os.DirFS(name)); err != nil {
			t.Fatal(err)
		}
	}
	root := "../../.."
	script, err := os.ReadFile(filepath.Join(root, "scripts/bpf"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "scripts/bpf"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command(filepath.Join(dir, "scripts/bpf")).CombinedOutput(); err != nil {
		t.Fatalf("scripts/bpf: %v\n%s", err, output)
	}
	for _, name := range []string{"server.o", "gateway.o", "listeners.o", "testdata/packet.o"} {
		committed, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		built, err := os.ReadFile(filepath.Join(dir, "transparent/toa/attach", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(built, committed) {
			t.Errorf("%s differs from what its source gives: run scripts/bpf", name)
		}
	}
}

// Each object holds the programs of its role and no other, without source lines.
func TestObjectsHoldThePrograms(t *testing.T) {
	for _, r := range []Role{Server, Gateway} {
		spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(r.object()))
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string
		for _, h := range r.hooks() {
			want = append(want, h.program)
		}
		for name := range spec.Programs {
			got = append(got, name)
			if len(name) > 15 {
				t.Errorf("%s: the kernel cuts names of more than 15 bytes", name)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("the %v's object has %q, want %q", r, got, want)
		}
		file, err := elf.NewFile(bytes.NewReader(r.object()))
		if err != nil {
			t.Fatal(err)
		}
		if file.Section(".debug_info") != nil {
			t.Errorf("the %v's object is not stripped", r)
		}
	}
}
