package packages_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
)

// machine is a running Debian with systemd as its process 1. It has the network of
// the test and process ids of its own.
type machine struct {
	root  string
	pid   string // of systemd
	group string // its control group
}

// boot starts systemd in the root. Where that cannot be, the test is skipped.
func boot(t testing.TB, root string) machine {
	t.Helper()
	group := controlGroup(t)
	script := `
		cd "$1"
		echo $$ >"$2/cgroup.procs"
		exec unshare --cgroup --mount --pid --fork --uts --ipc --kill-child sh -ec '
			mount --rbind . /mnt # a mount point, to change to
			cd /mnt
			mount -t proc proc proc
			mount -t sysfs -o ro sysfs sys
			mount -t cgroup2 cgroup2 sys/fs/cgroup
			mkdir -p dev/pts dev/shm
			mount -t tmpfs none dev/shm
			mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
			ln -s pts/ptmx dev/ptmx # PrivateDevices= looks for it
			pivot_root . mnt
			umount --lazy /mnt
			exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd </dev/null'`
	p := lab.Start(t, lab.Command{Name: "sh", Args: []string{"-ec", script, "sh", root, group}})
	t.Cleanup(func() { p.Signal(unix.SIGKILL) }) // unshare ignores SIGTERM
	m := machine{root: root, group: group}
	var output string
	booted := await.For(t, func() bool {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID()))
		if m.pid = strings.TrimSpace(string(children)); m.pid == "" {
			return len(p.Lines()) > 0 // it failed
		}
		var code int
		output, code = lab.Run(t, m.command("systemctl", "is-system-running"))
		return code == 0 || strings.Contains(output, "degraded")
	})
	if !booted || m.pid == "" {
		t.Skipf("systemd does not start here: %s\n%s", output, strings.Join(p.Lines(), "\n"))
	}
	return m
}

// controlGroup makes a control group for the machine. It is removed with the test.
func controlGroup(t testing.TB) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/mounts")) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "cgroup2" {
			continue
		}
		dir, err := os.MkdirTemp(fields[1], "unproxy-test-")
		if err != nil {
			t.Skipf("no control group for systemd: %v", err)
		}
		t.Cleanup(func() {
			await.For(t, func() bool {
				lab.Run(t, lab.Command{Name: "find", Args: []string{dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"}})
				_, err := os.Stat(dir)
				return os.IsNotExist(err)
			})
		})
		return dir
	}
	t.Skip("no control group for systemd: version 2 is not mounted")
	return ""
}

// command returns the command that runs a program in the machine.
func (m machine) command(words ...string) lab.Command {
	args := []string{"--target", m.pid, "--mount", "--pid", "--uts", "--ipc", "--cgroup",
		"env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}
	return lab.Command{Name: "nsenter", Args: append(args, words...)}
}

// run runs a program in the machine. It has to succeed; otherwise the journal is logged.
func (m machine) run(t testing.TB, words ...string) string {
	t.Helper()
	output, code := lab.Run(t, m.command(words...))
	if code != 0 {
		journal, _ := lab.Run(t, m.command("journalctl", "--no-pager", "--lines=50", "--unit=unproxy*"))
		t.Fatalf("%q: exit code %d: %s\n%s", words, code, output, journal)
	}
	return output
}

// write writes a file in the machine.
func (m machine) write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.root, path), []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

// waitJournal waits until a unit has written a line with text.
func (m machine) waitJournal(t testing.TB, unit, text string) {
	t.Helper()
	var journal string
	if !await.For(t, func() bool {
		journal = m.run(t, "journalctl", "--no-pager", "--unit", unit)
		return strings.Contains(journal, text)
	}) {
		t.Fatalf("the journal of %s lacks %q:\n%s", unit, text, journal)
	}
}

// property returns a property of the service, as systemd sees it.
func (m machine) property(t testing.TB, name string) string {
	t.Helper()
	return strings.TrimSpace(m.run(t, "systemctl", "show", "--property", name, "--value", "unproxy.service"))
}
