package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

// The lowest limit on the way up counts, in both versions of control groups.
func TestCgroupLimit(t *testing.T) {
	const proc = "proc/self/cgroup"
	for _, row := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"no control groups", nil, 0},
		{"version 2, its own", map[string]string{
			proc: "0::/system.slice/unproxy.service\n", "sys/fs/cgroup/system.slice/unproxy.service/memory.max": "268435456\n"}, 268435456},
		{"version 2, of the slice", map[string]string{
			proc: "0::/system.slice/unproxy.service\n", "sys/fs/cgroup/system.slice/unproxy.service/memory.max": "max\n",
			"sys/fs/cgroup/system.slice/memory.max": "1000000\n"}, 1000000},
		{"version 2, the slice's is lower", map[string]string{
			proc: "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "2000\n", "sys/fs/cgroup/a/memory.max": "1000\n"}, 1000},
		{"version 2, of a container", map[string]string{ // in its own namespace the group is the root
			proc: "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 536870912},
		{"version 2, a group outside of the namespace", map[string]string{
			proc: "0::/../other\n", "sys/fs/cgroup/memory.max": "4096\n"}, 4096},
		{"version 2, none", map[string]string{proc: "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 0},
		{"version 1", map[string]string{
			proc: "12:cpu,cpuacct:/x\n9:memory:/docker/7\n1:name=systemd:/docker/7\n0::/\n",
			"sys/fs/cgroup/memory/docker/7/memory.limit_in_bytes": "33554432\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes":        "1\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":          "9223372036854771712\n"}, 33554432},
		{"version 1, none", map[string]string{
			proc: "9:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		{"not a number", map[string]string{proc: "0::/\n", "sys/fs/cgroup/memory.max": "plenty\n"}, 0},
	} {
		root := t.TempDir()
		for name, text := range row.files {
			name = filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := cgroupLimit(root); got != row.want {
			t.Errorf("%s: %d, want %d", row.name, got, row.want)
		}
	}
}
