package packages_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

// suite is the Debian release in which packages are installed.
const suite = "bookworm"

// debianRoot returns the directory of a minimal Debian with systemd. The first call on a
// machine makes it by debootstrap, which takes a minute; later ones find it in the user's
// cache. Tests must not write to it: see writableRoot.
func debianRoot(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("no directory to keep a Debian root in: %v", err)
	}
	dir := filepath.Join(cache, "unproxy-test", suite)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can run debootstrap")
	}
	lab.Require(t, "debootstrap", "apt-get")
	script := `
		mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME)' | sed -n 's/ ` + suite + `$//p' | head -n 1)
		mkdir -p "$1"
		work=$(mktemp -d "$1/new.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		timeout 500 debootstrap --variant=minbase --include=systemd ` + suite + ` "$work/root" $mirror >"$work/log" 2>&1 ||
			{ tail -n 3 "$work/log"; exit 1; }
		rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists"
		mkdir -p "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists"
		mv -T "$work/root" "$1/` + suite + `"`
	output, err := lab.Slow(t, lab.Command{Name: "sh", Args: []string{"-ec", script, "sh", filepath.Dir(dir)}})
	if err != nil {
		t.Skipf("debootstrap made no Debian root: %v: %s", err, output)
	}
	return dir
}

// writableRoot mounts a copy of the Debian root that ends with the test's mount
// namespace, and returns its path.
func writableRoot(t testing.TB, debian string) string {
	t.Helper()
	dir := t.TempDir()
	output, code := lab.Run(t, lab.Command{Name: "sh", Args: []string{"-ec", `
		mount -t tmpfs none "$1"
		cd "$1"
		mkdir upper work root
		mount -t overlay overlay -o lowerdir="$2",upperdir=upper,workdir=work root
		mount -t proc proc root/proc
		mount -t tmpfs none root/tmp -o mode=1777
		mount -t tmpfs none root/run -o mode=755
		mount -t tmpfs none root/dev -o mode=755
		for device in null zero full random urandom; do
			touch root/dev/$device
			mount --bind /dev/$device root/dev/$device
		done`, "sh", dir, debian}})
	if code != 0 {
		t.Skipf("no overlay of the Debian root: %s", output)
	}
	// From the inside out, so that the directory can be removed.
	t.Cleanup(func() {
		lab.Shell(t, "awk '{print $2}' /proc/self/mounts | grep '^"+dir+"' | tac | xargs -r umount --lazy")
	})
	return filepath.Join(dir, "root")
}

// files lists the files and directories of a root, and the accounts in it, without what
// is not a package's: logs, caches, the databases of dpkg and rpm, and backups of
// accounts.
func files(t testing.TB, root string) string {
	t.Helper()
	// Into a file: what a program prints is shown if the test fails.
	list := filepath.Join(t.TempDir(), "files")
	lab.Shell(t, `cd `+root+`
		exec >`+list+`
		find . -xdev \( -path ./var/log -o -path ./var/cache -o -path ./var/lib/dpkg -o -path ./var/lib/rpm -o \
			-path ./var/lib/systemd -o -path ./var/tmp -o -path ./usr/lib/sysimage -o -path ./root/.rpmdb \) -prune -o -print |
			grep -vx -e './etc/[a-z]*-' -e ./etc/.pwd.lock -e ./etc/machine-id -e ./usr/share/licenses
		sed 's/^/account /' etc/passwd etc/group`)
	return readFile(t, list)
}

// difference returns the lines of b that a lacks, and those of a that b lacks.
func difference(a, b string) (added, removed []string) {
	in := func(text string) map[string]bool {
		lines := make(map[string]bool)
		for line := range strings.Lines(text) {
			lines[strings.TrimSpace(line)] = true
		}
		return lines
	}
	before, after := in(a), in(b)
	for line := range after {
		if !before[line] {
			added = append(added, line)
		}
	}
	for line := range before {
		if !after[line] {
			removed = append(removed, line)
		}
	}
	return added, removed
}
