package packages_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// building is held by the test that builds what others use.
var building sync.Mutex

// The versions that the tests install, in this order.
const oldVersion, newVersion = "1.0.0", "1.1.0-rc.1"

// twoVersions builds packages of both versions for this machine, in VERSION below the
// directory that it returns. Later calls find them there.
func twoVersions(t *testing.T) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	dir := os.Getenv(prepared)
	for _, version := range []string{oldVersion, newVersion} {
		if _, err := os.Stat(filepath.Join(dir, version)); err == nil {
			continue
		}
		dist := release(t, build{root: "../..", version: version, architectures: runtime.GOARCH})
		lab.Output(t, "mv", dist, filepath.Join(dir, version))
	}
	return dir
}

// installable is [twoVersions] for tests that install them, which takes root, and makes
// the Debian root.
func installable(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can install packages")
	}
	versions := twoVersions(t)
	building.Lock()
	defer building.Unlock()
	debianRoot(t)
	return versions
}

// settings are those of the service in the tests.
const settings = `# changed by the administrator
UNPROXY_FORWARD="127.0.0.1:2000=127.0.0.1:3000"
UNPROXY_TRUST_FILE=/etc/unproxy-trust
UNPROXY_ADMIN=unix:/run/unproxy/admin.sock
UNPROXY_BAN_FILE=/var/lib/unproxy/bans
`

// The whole life of the deb on a Debian with systemd: installed, configured, started,
// upgraded under traffic, made transparent, removed and purged. The units' sandbox is
// systemd's own.
//
//	conn ──header──▶ 127.0.0.1:2000 unproxy.service ──▶ backend :3000
func TestDeb(t *testing.T) {
	t.Parallel()
	versions := installable(t)
	netns.RunAsRoot(t, func(t *testing.T) {
		m := boot(t, writableRoot(t, debianRoot(t)))
		before := files(t, m.root)
		for _, version := range []string{oldVersion, newVersion} {
			lab.Output(t, "cp", found(t, filepath.Join(versions, version), "*.deb"), filepath.Join(m.root, "tmp", version+".deb"))
		}
		backend := lab.Listen(t, "127.0.0.1:3000")

		if out := m.run(t, "dpkg", "--install", "/tmp/"+oldVersion+".deb"); !strings.Contains(out, "edit /etc/default/unproxy") {
			t.Errorf("dpkg printed no hint:\n%s", out)
		}
		for _, unit := range []string{"unproxy", "unproxy-routes", "unproxy-toa"} {
			if out, code := lab.Run(t, m.command("systemctl", "is-enabled", unit)); code == 0 || !strings.Contains(out, "disabled") {
				t.Errorf("%s is enabled without a configuration, or not installed: %s", unit, out)
			}
		}
		m.run(t, "sh", "-c", `test "$(stat -c '%a %U:%G' /etc/default/unproxy)" = '640 root:unproxy'`)
		m.write(t, "etc/default/unproxy", settings)
		m.write(t, "etc/unproxy-trust", "127.0.0.1\n") // with mode 0640, for the service's group alone
		m.run(t, "chgrp", "unproxy", "/etc/unproxy-trust")
		m.run(t, "systemctl", "enable", "--now", "unproxy")
		carries(t, backend)
		wantSandbox(t, m, "0000000000000000")
		m.run(t, "unproxy", "ban", "198.51.100.7", "--admin", "unix:/run/unproxy/admin.sock")
		m.run(t, "grep", "198.51.100.7", "/var/lib/unproxy/bans")

		attached := attachDeb(t, m)
		upgradeDeb(t, m, backend)
		if attached {
			wantReplaced(t, m)
			carryDeb(t, m)
		}
		transparentDeb(t, m, backend)

		m.run(t, "dpkg", "--remove", "unproxy")
		if attached {
			wantAttachments(t, m, 0)
		}
		if rules := netns.IP(t, "rule"); strings.Contains(rules, "7700") {
			t.Errorf("rules after the removal:\n%s", rules)
		}
		if text := readFile(t, filepath.Join(m.root, "etc/default/unproxy")); !strings.HasPrefix(text, settings) {
			t.Errorf("the settings after the removal:\n%s", text)
		}
		wantRefused(t)
		m.run(t, "dpkg", "--purge", "unproxy")
		m.run(t, "rm", "/etc/unproxy-trust")
		if added, removed := difference(before, files(t, m.root)); len(added) > 0 || len(removed) > 0 {
			t.Errorf("after purge these are new: %q, and these are missing: %q", added, removed)
		}
	})
}

// upgradeDeb installs the next version while a connection carries data.
func upgradeDeb(t *testing.T, m machine, backend *lab.Backend) {
	t.Helper()
	conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
	behind := backend.Next(t)
	lab.Exchange(t, conn, behind)
	first := m.property(t, "MainPID")
	m.run(t, "dpkg", "--install", "/tmp/"+newVersion+".deb")
	second := m.property(t, "MainPID")
	if first == second || second == "0" {
		t.Errorf("the main process was %s and is %s", first, second)
	}
	lab.Exchange(t, conn, behind)
	carries(t, backend)
	if text := readFile(t, filepath.Join(m.root, "etc/default/unproxy")); text != settings {
		t.Errorf("the settings after the upgrade:\n%s", text)
	}
	status := m.run(t, "unproxy", "status", "--json", "--admin", "unix:/run/unproxy/admin.sock")
	if !strings.Contains(status, `"`+newVersion) {
		t.Errorf("the running version is not %s:\n%s", newVersion, status)
	}
	for name, want := range map[string]string{"ActiveState": "active", "SubState": "running", "NRestarts": "0"} {
		if got := m.property(t, name); got != want {
			t.Errorf("%s of the service after the upgrade is %q, want %q", name, got, want)
		}
	}
	conn.Close()
	behind.Close()
	await.Until(t, "the replaced process ends", func() bool {
		_, code := lab.Run(t, m.command("test", "-e", "/proc/"+first))
		return code != 0
	})
	if got := m.property(t, "MainPID"); got != second {
		t.Errorf("the main process is %s after the replaced one has ended, want %s", got, second)
	}
}

// transparentDeb turns transparent mode on by the steps in the settings' example.
func transparentDeb(t *testing.T, m machine, backend *lab.Backend) {
	t.Helper()
	m.write(t, "etc/default/unproxy", settings+"UNPROXY_TRANSPARENT=on\n")
	_, example, _ := strings.Cut(readFile(t, "../../scripts/package/unproxy.env"), "\n# 8. ")
	example, _, _ = strings.Cut(example, "\n\n")
	steps := 0
	for line := range strings.Lines(example) {
		if command, ok := strings.CutPrefix(line, "#   "); ok {
			m.run(t, "sh", "-ec", command)
			steps++
		}
	}
	if steps != 4 {
		t.Errorf("%d steps to transparent mode, want 4", steps)
	}
	m.run(t, "systemctl", "restart", "unproxy")
	conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
	behind := backend.Next(t)
	if got := lab.Peer(behind); got.Addr() != client4.Addr() {
		t.Errorf("the backend sees %v, want %v", got, client4)
	}
	lab.Exchange(t, conn, behind)
	conn.Close()
	behind.Close()
	wantSandbox(t, m, "0000000000002400") // CAP_NET_RAW and CAP_NET_BIND_SERVICE
}

// wantSandbox checks that the running service is the unit's user, with these
// capabilities and systemd's filter of system calls.
func wantSandbox(t *testing.T, m machine, capabilities string) {
	t.Helper()
	status := m.run(t, "cat", "/proc/"+m.property(t, "MainPID")+"/status")
	id := strings.TrimSpace(m.run(t, "id", "--user", "unproxy"))
	for key, want := range map[string]string{"Uid": id, "CapEff": capabilities, "CapBnd": capabilities,
		"NoNewPrivs": "1", "Seccomp": "2"} {
		_, after, _ := strings.Cut(status, "\n"+key+":")
		if got := strings.Fields(after); len(got) == 0 || got[0] != want {
			t.Errorf("%s of the service is %q, want %q", key, after, want)
		}
	}
}

// carries sends a connection's worth of data through the service, in both directions.
func carries(t *testing.T, backend *lab.Backend) {
	t.Helper()
	conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
	behind := backend.Next(t)
	lab.Exchange(t, conn, behind)
	conn.Close()
	behind.Close()
}

func wantRefused(t *testing.T) {
	t.Helper()
	if conn, err := net.Dial("tcp", "127.0.0.1:2000"); err == nil {
		conn.Close()
		t.Error("the service still listens")
	}
}

// Without systemd, as in a container, the packages install and leave nothing behind
// either: the deb by dpkg, the rpm by rpm, with the scripts' other arguments.
func TestPackagesWithoutSystemd(t *testing.T) {
	t.Parallel()
	versions := installable(t)
	netns.RunAsRoot(t, func(t *testing.T) {
		lab.Require(t, "rpm")
		root := writableRoot(t, debianRoot(t))
		before := files(t, root)
		for _, version := range []string{oldVersion, newVersion} {
			for _, format := range []string{"deb", "rpm"} {
				lab.Output(t, "cp", found(t, filepath.Join(versions, version), "*."+format),
					filepath.Join(root, "tmp", version+"."+format))
			}
		}
		rpm := fmt.Sprintf("rpm --root %s --nodeps", root)
		for _, by := range []struct{ install, remove string }{
			{"chroot " + root + " dpkg --install /tmp/%s.deb", "chroot " + root + " dpkg --purge unproxy"},
			{rpm + " --upgrade " + root + "/tmp/%s.rpm", rpm + " --erase unproxy"},
		} {
			for _, version := range []string{oldVersion, newVersion} {
				lab.Shell(t, fmt.Sprintf(by.install, version))
				if got := lab.Output(t, "chroot", root, "unproxy", "version"); !strings.HasPrefix(got, "unproxy "+version) {
					t.Errorf("%s installed %s instead of %s", by.install, got, version)
				}
				lab.Output(t, "chroot", root, "id", "unproxy")
			}
			lab.Shell(t, by.remove)
			if added, removed := difference(before, files(t, root)); len(added) > 0 || len(removed) > 0 {
				t.Errorf("%s left %q and removed %q", by.remove, added, removed)
			}
		}
	})
}
