package doctor

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// privileges are the capability sets of a process from proc/PID/status
// (capabilities(7)); bit n stands for capability n.
type privileges struct {
	effective, permitted, bounding uint64
	// noNewPrivileges disables file capabilities (PR_SET_NO_NEW_PRIVS, prctl(2)).
	noNewPrivileges bool
}

// privileges reads the privileges of this process.
func (h Host) privileges() (privileges, error) {
	text, err := fs.ReadFile(h.Files, "proc/self/status")
	if err != nil {
		return privileges{}, fmt.Errorf("read this process's capabilities: %w", err)
	}
	var p privileges
	sets := map[string]*uint64{"CapEff": &p.effective, "CapPrm": &p.permitted, "CapBnd": &p.bounding}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if set := sets[key]; set != nil {
			if *set, err = strconv.ParseUint(value, 16, 64); err != nil {
				return p, fmt.Errorf("read this process's %s: %w", key, err)
			}
		}
		if key == "NoNewPrivs" {
			p.noNewPrivileges = value == "1"
		}
	}
	return p, nil
}

// has reports whether a capability set contains a capability.
func has(set uint64, capability int) bool { return set>>capability&1 == 1 }

// capability is a capability that a gateway may need.
type capability struct {
	bit int
	// short is the name for container engines, long the name for systemd.
	short, long string
	// file is the argument of setcap(8) for the program's file.
	file string
}

var (
	netRaw = capability{unix.CAP_NET_RAW, "NET_RAW", "CAP_NET_RAW", "cap_net_raw+ep"}
	// setcap(8) removes capabilities that it is not given, so it names both.
	netBindService = capability{
		unix.CAP_NET_BIND_SERVICE, "NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE", "cap_net_raw,cap_net_bind_service+ep",
	}
)

// whyMissing returns why a capability is not effective and how to grant it.
func (h Host) whyMissing(p privileges, c capability) (why string, hint []string) {
	file := "setcap " + c.file + " " + h.Executable
	unit := "# in a systemd unit: AmbientCapabilities=" + c.long
	container := "# in a container: --cap-add " + c.short + ", and the user root"
	switch {
	case has(p.effective, c.bit):
		return "it is effective in another user namespace than the one that owns this network namespace",
			[]string{"# run it in the user namespace that owns this network namespace, or in a new network namespace"}
	case !has(p.bounding, c.bit):
		return "the bounding set of this process lacks it, so the process cannot gain it",
			[]string{"# in a systemd unit: " + c.long + " in CapabilityBoundingSet= and AmbientCapabilities=", container}
	case has(p.permitted, c.bit):
		return "it is permitted but not effective", []string{file}
	case has(h.FileCapabilities, c.bit) && p.noNewPrivileges:
		return "the program's file has it, but file capabilities have no effect under no_new_privs, " +
				"which the service manager or the container has set",
			[]string{unit, "# in a container: the user root, or allowPrivilegeEscalation: true"}
	case has(h.FileCapabilities, c.bit):
		return "the program's file has it, but its file system is mounted nosuid, " +
			"or the file capability is for another user namespace", []string{unit}
	case p.noNewPrivileges:
		return "this user has none, and file capabilities have no effect under no_new_privs", []string{unit, container}
	}
	return "this user has none", []string{file, unit, container}
}
