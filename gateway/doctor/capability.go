package doctor

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// privileges is what a process may do, as proc/PID/status has it
// (capabilities(7)).
type privileges struct {
	effective, permitted, bounding uint64
	// noNewPrivileges makes the capabilities of files void (prctl(2)).
	noNewPrivileges bool
}

// privileges reads this process's.
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

func has(set uint64, capability int) bool { return set>>capability&1 == 1 }

// capability is one that a gateway may need.
type capability struct {
	bit        int
	name, long string
	// file is what the program's file is to be given.
	file string
}

var (
	netRaw = capability{unix.CAP_NET_RAW, "NET_RAW", "CAP_NET_RAW", "cap_net_raw+ep"}
	// Both, for setcap(8) takes away what it does not name.
	netBindService = capability{unix.CAP_NET_BIND_SERVICE, "NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE", "cap_net_raw,cap_net_bind_service+ep"}
)

// whyMissing says why a capability is not in force, and what gives it.
func (h Host) whyMissing(p privileges, c capability) (why string, action []string) {
	file := "setcap " + c.file + " " + h.Executable
	unit := "# in a systemd unit: AmbientCapabilities=" + c.long
	container := "# in a container: --cap-add " + c.name + ", and the user root"
	switch {
	case has(p.effective, c.bit):
		return "it is in force in another user namespace than the one that owns this network namespace",
			[]string{"# run it where the network namespace was made, or with a network namespace of its own"}
	case !has(p.bounding, c.bit):
		return "the bounding set of this process lacks it, so that nothing can give it back",
			[]string{"# in a systemd unit: " + c.long + " in CapabilityBoundingSet= and AmbientCapabilities=", container}
	case has(p.permitted, c.bit):
		return "it is permitted but not effective", []string{file}
	case has(h.FileCapabilities, c.bit) && p.noNewPrivileges:
		return "the program's file has it, which is void under no_new_privs; the service manager or the container has set that",
			[]string{unit, "# in a container: the user root, or allowPrivilegeEscalation: true"}
	case has(h.FileCapabilities, c.bit):
		return "the program's file has it, but on a file system that is mounted nosuid, or for another user namespace", []string{unit}
	case p.noNewPrivileges:
		return "this user has none, and under no_new_privs the program's file cannot give it", []string{unit, container}
	}
	return "this user has none", []string{file, unit, container}
}
