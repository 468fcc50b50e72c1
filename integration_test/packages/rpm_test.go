package packages_test

import (
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

// What rpm says about the package: intact, the same files as the deb, settings that an
// upgrade keeps, and the four scripts.
func TestRPM(t *testing.T) {
	t.Parallel()
	lab.Require(t, "rpm", "rpm2cpio", "cpio", "dpkg-deb")
	dist := filepath.Join(twoVersions(t), newVersion)
	path := found(t, dist, "*.rpm")
	if name := filepath.Base(path); !strings.HasPrefix(name, "unproxy-1.1.0~rc.1-1.") {
		t.Errorf("the package is called %s", name)
	}
	query := func(args ...string) string {
		return lab.Output(t, append([]string{"rpm", "--dbpath", t.TempDir(), "--query", "--package", path}, args...)...)
	}
	lab.Output(t, "rpm", "--dbpath", t.TempDir(), "--checksig", "--nosignature", path)
	if got := strings.TrimSpace(query("--configfiles")); got != "/etc/default/unproxy\n/etc/default/unproxy-toa" {
		t.Errorf("configuration files: %s", got)
	}
	flags := query("--queryformat", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]")
	for _, name := range []string{"/etc/default/unproxy", "/etc/default/unproxy-toa"} {
		if !strings.Contains(flags, name+" cn") {
			t.Errorf("an upgrade does not keep %s:\n%s", name, flags)
		}
	}
	if requires := query("--requires"); !strings.Contains(requires, "shadow-utils") {
		t.Errorf("requires\n%s", requires)
	}
	for name, script := range map[string]string{"preinstall": "%{PREIN}", "postinstall": "%{POSTIN}",
		"preremove": "%{PREUN}", "postremove": "%{POSTUN}"} {
		want := strings.TrimSpace(readFile(t, "../../scripts/package/maintainer/"+name))
		if got := strings.TrimSpace(query("--queryformat", script)); got != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	inRPM := lab.Shell(t, "rpm2cpio "+path+" | cpio --quiet --list --verbose | grep -v '^d' | awk '{print $NF}' | sed 's/^\\.\\?\\///' | sort")
	inDeb := lab.Shell(t, "dpkg-deb --fsys-tarfile "+found(t, dist, "*.deb")+
		" | tar -t | grep -v '/$' | sed 's/^\\.\\///' | sort")
	moved := strings.NewReplacer("zsh/vendor-completions", "zsh/site-functions",
		"doc/unproxy/copyright", "licenses/unproxy/LICENSE",
		"doc/unproxy/licences.txt.gz", "licenses/unproxy/licences.txt.gz")
	if added, removed := difference(moved.Replace(inDeb), inRPM); len(added) > 0 || len(removed) > 0 {
		t.Errorf("only in the rpm: %q; only in the deb: %q", added, removed)
	}
}
