package attach

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// exclusive names a program of others that a cgroup or one above it has at a hook: the
// kernel refuses ours if it was attached without BPF_F_ALLOW_MULTI. "" if there is none.
func exclusive(path string, h hook) string {
	for ; isCgroup(path); path = filepath.Dir(path) {
		if name := otherAt(path, h); name != "" {
			return fmt.Sprintf("%s at %s", name, path)
		}
	}
	return ""
}

// otherAt names the first program of others that a cgroup has at a hook, "" for none.
func otherAt(path string, h hook) string {
	dir, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer dir.Close()
	there, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: h.at})
	if err != nil {
		return ""
	}
	for _, one := range there.Programs {
		if name := nameOf(one.ID); !isOurs(name) {
			return fmt.Sprintf("program %d (%q)", one.ID, name)
		}
	}
	return ""
}

// nameOf returns the name of a program, "" if it has none or has vanished.
func nameOf(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
