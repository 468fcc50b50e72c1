package netns

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// IP runs ip(8), which must succeed, with the words of command as arguments, and returns
// its output.
func IP(t testing.TB, command string) string {
	t.Helper()
	output, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", command, err, output)
	}
	return string(output)
}

// Sysctl sets a parameter of the namespace, such as "net.ipv4.ip_local_port_range".
func Sysctl(t testing.TB, name, value string) {
	t.Helper()
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatalf("sysctl %s=%s: %v", name, value, err)
	}
}

// Directory mounts an empty file system at path, which must exist. Some servers require
// directories such as /run/sshd.
func Directory(t testing.TB, path string) {
	t.Helper()
	if output, err := exec.Command("mount", "-t", "tmpfs", "none", path).CombinedOutput(); err != nil {
		t.Fatalf("mount a file system at %s: %v: %s", path, err, output)
	}
}
