package daemon

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Memory returns the memory that the process may use, in bytes: the limit of its control group
// or of one above it, at most the memory of the machine. 0 is unknown.
func Memory() int64 {
	machine := int64(math.MaxInt64)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		machine = int64(info.Totalram) * int64(info.Unit)
	}
	if limit := cgroupLimit("/"); limit > 0 {
		machine = min(machine, limit)
	}
	if machine == math.MaxInt64 {
		return 0
	}
	return machine
}

// goShare is the part of the control group's memory that the Go runtime may use before it collects
// garbage more often. The rest is for what the kernel charges to the group as well: the buffers of
// sockets and pipes.
const goShare = 0.75

// limitMemory sets the memory limit of the Go runtime from that of the control group, unless the
// operator has set GOMEMLIMIT.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit := cgroupLimit("/"); limit > 0 {
		debug.SetMemoryLimit(int64(float64(limit) * goShare))
	}
}

// runtimeLimit returns the memory limit of the Go runtime, 0 if there is none.
func runtimeLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit
	}
	return 0
}

// cgroupLimit returns the lowest memory limit of the process's control group and those above it,
// as far as they are visible; 0 if there is none. root is "/", or a directory with another /proc
// and /sys in it.
func cgroupLimit(root string) int64 {
	groups, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	least := int64(0)
	lines := bufio.NewScanner(bytes.NewReader(groups))
	for lines.Scan() { // ID:CONTROLLERS:PATH (cgroups(7), "/proc files")
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		base, file := "sys/fs/cgroup", "memory.max"
		if parts[1] != "" {
			if parts[1] != "memory" {
				continue
			}
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			if n := readLimit(path.Join(root, base, dir, file)); n > 0 && (least == 0 || n < least) {
				least = n
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// unlimited is above every real limit: version 1 has the highest number of whole pages for none.
const unlimited = 1 << 60

// readLimit returns the number in a file of a control group; 0 if there is none, or "max".
func readLimit(name string) int64 {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n >= unlimited {
		return 0
	}
	return n
}
