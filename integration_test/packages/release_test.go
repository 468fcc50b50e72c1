package packages_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

// The commit that the tests' releases are of, so that they need no version control.
const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	date   = "2026-01-02T03:04:05Z"
	epoch  = "1767323045"
)

// build is a run of scripts/package/build.
type build struct {
	root          string // of the checkout
	version       string
	architectures string
	zone          string // the time zone, which must not matter
}

// release runs the build and returns the directory of its results. It needs no version
// control.
func release(t testing.TB, b build) string {
	t.Helper()
	lab.Require(t, "go", "bash", "tar", "gzip")
	dist := filepath.Join(t.TempDir(), "dist")
	output, err := lab.Slow(t, lab.Command{Name: filepath.Join(b.root, "scripts/package/build"), Env: []string{
		"VERSION=" + b.version, "COMMIT=" + commit, "SOURCE_DATE_EPOCH=" + epoch,
		"DIST=" + dist, "ARCHITECTURES=" + b.architectures, "TZ=" + b.zone,
	}})
	if err != nil {
		t.Fatalf("scripts/package/build: %v\n%s", err, output)
	}
	return dist
}

// found returns the one file in dir that matches the pattern.
func found(t testing.TB, dir, pattern string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(all) != 1 {
		t.Fatalf("%s in %s: %q, %v; want one file", pattern, dir, all, err)
	}
	return all[0]
}

// copyOfTree copies the files under version control, or all if there is none, and
// returns the directory.
func copyOfTree(t testing.TB) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "elsewhere", "src")
	lab.Shell(t, `mkdir -p `+to+`; cd ../..; tar --exclude=./.git --exclude=./dist -cf - . | tar -xf - -C `+to)
	return to
}

// Two builds of one commit, in different directories, give the same bytes. The programs
// are static and stripped, know their version without version control, and are small.
func TestRelease(t *testing.T) {
	t.Parallel()
	first := release(t, build{root: "../..", version: "1.2.3", architectures: "amd64 arm64", zone: "UTC"})
	second := release(t, build{root: copyOfTree(t), version: "v1.2.3", architectures: "amd64 arm64", zone: "Asia/Tokyo"})
	sums := readFile(t, filepath.Join(first, "SHA256SUMS"))
	if again := readFile(t, filepath.Join(second, "SHA256SUMS")); sums != again {
		t.Errorf("the first build gave\n%sthe second\n%s", sums, again)
	}
	lab.Shell(t, "cd "+first+"; sha256sum --check --strict SHA256SUMS")
	if n := strings.Count(sums, "\n"); n != 10 {
		t.Errorf("SHA256SUMS has %d files, want 10:\n%s", n, sums)
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		t.Run(architecture, func(t *testing.T) { checkProgram(t, first, architecture) })
		t.Run(architecture+" archive", func(t *testing.T) { checkArchive(t, first, architecture) })
		t.Run(architecture+" SBOM", func(t *testing.T) { checkBill(t, first, architecture) })
		t.Run(architecture+" licences", func(t *testing.T) { checkLicences(t, first, architecture) })
	}
}

// The limits of a program's size: on disk, and compressed as it is downloaded.
const (
	maxInstalled  = 17_000_000
	maxCompressed = 7_000_000
)

func checkProgram(t *testing.T, dist, architecture string) {
	program := filepath.Join(dist, "unproxy-linux-"+architecture)
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Stat(found(t, dist, "*-"+architecture+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxInstalled || archive.Size() > maxCompressed {
		t.Errorf("the program has %d bytes, want at most %d; the archive %d, want at most %d",
			info.Size(), maxInstalled, archive.Size(), maxCompressed)
	}
	headers := lab.Output(t, "readelf", "--wide", "--program-headers", "--sections", program)
	for _, unwanted := range []string{"INTERP", "DYNAMIC", ".symtab", ".debug_"} {
		if strings.Contains(headers, unwanted) {
			t.Errorf("the program has %s: it is not static or not stripped", unwanted)
		}
	}
	if architecture != runtime.GOARCH {
		return
	}
	want := "unproxy 1.2.3 revision " + commit[:12] + " of " + date
	if got := lab.Output(t, program, "version"); !strings.HasPrefix(got, want) {
		t.Errorf("unproxy version printed %q, want %q", got, want)
	}
}

// checkArchive unpacks the tar.gz and uses its files as docs/install.md says.
func checkArchive(t *testing.T, dist, architecture string) {
	dir := t.TempDir()
	lab.Output(t, "tar", "-C", dir, "-xzf", found(t, dist, "*-"+architecture+".tar.gz"))
	root := filepath.Join(dir, "unproxy-1.2.3-linux-"+architecture)
	for path, text := range map[string]string{
		"unproxy":                        "ELF",
		"unproxy.8":                      ".TH",
		"unproxy.env":                    "UNPROXY_FORWARD",
		"install.md":                     "# Install",
		"LICENSE":                        "Apache License",
		"completion/bash":                "unproxy",
		"completion/zsh":                 "#compdef unproxy",
		"completion/fish":                "complete -c unproxy",
		"systemd/unproxy.service":        "ExecStart=/usr/bin/unproxy",
		"systemd/unproxy.socket":         "ListenStream=",
		"systemd/unproxy-routes.service": "routes apply",
		"systemd/transparent.conf":       "CAP_NET_RAW",
		"systemd/unproxy-toa.service":    "toa attach",
		"systemd/toa.conf":               "--gateway",
		"unproxy-toa.env":                "TOA_FLAGS",
	} {
		if !strings.Contains(readFile(t, filepath.Join(root, path)), text) {
			t.Errorf("%s lacks %q", path, text)
		}
	}
}
