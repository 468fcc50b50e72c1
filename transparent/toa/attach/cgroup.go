package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Self is the name of the caller's own cgroup, for [Resolve].
const Self = "self"

// mountTable is the list of mounts, see proc_pid_mountinfo(5).
const mountTable = "/proc/self/mountinfo"

// Root returns the directory at which the cgroup v2 hierarchy is mounted.
func Root() (string, error) {
	table, err := os.ReadFile(mountTable)
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	if at := mountOf(table, "cgroup2"); at != "" {
		return at, nil
	}
	return "", &Error{
		text: "no cgroup v2 hierarchy is mounted (" + mountTable + ")",
		hint: "mount it: mkdir -p /run/cgroup2 && mount -t cgroup2 cgroup2 /run/cgroup2",
	}
}

// mountOf returns the first mount point of a file system type, "" if there is none.
func mountOf(table []byte, fileSystem string) string {
	for line := range strings.Lines(string(table)) {
		before, after, _ := strings.Cut(line, " - ")
		mount, of := strings.Fields(before), strings.Fields(after)
		if len(mount) > 4 && len(of) > 0 && of[0] == fileSystem {
			return unescape(mount[4])
		}
	}
	return ""
}

// unescape decodes the octal escapes of the mount table.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Resolve returns the directory of a cgroup. name is "" for the root of the hierarchy,
// [Self], the path of a directory in it, or a path below its root, such as
// "system.slice/ssh.service".
func Resolve(name string) (string, error) {
	if filepath.IsAbs(name) && isCgroup(name) {
		return filepath.Clean(name), nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	if name == Self {
		if name, err = ownPath(); err != nil {
			return "", err
		}
	}
	path := filepath.Join(root, name)
	if !isCgroup(path) {
		return "", &Error{
			text: fmt.Sprintf("no cgroup %q: neither it nor %s is a directory of the cgroup v2 hierarchy", name, path),
			hint: "the cgroup of a service: systemctl show --property ControlGroup --value NAME",
		}
	}
	return path, nil
}

// isCgroup reports whether path is in a cgroup v2 hierarchy.
func isCgroup(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && int64(s.Type) == unix.CGROUP2_SUPER_MAGIC
}

// ownPath returns the path of the caller's cgroup below the root of its cgroup namespace.
func ownPath() (string, error) {
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the own cgroup: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n"), nil
		}
	}
	return "", errors.New("find the own cgroup: /proc/self/cgroup names none of version 2")
}

// isHostRoot reports whether path is the root of the whole hierarchy: that one has no
// cgroup.events, unlike the root of a cgroup namespace.
func isHostRoot(path string) bool {
	_, err := os.Stat(filepath.Join(path, "cgroup.events"))
	return errors.Is(err, fs.ErrNotExist)
}

// open opens and locks the directory of a cgroup. Closing it unlocks it.
func open(path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the cgroup: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock %s: %w", path, os.NewSyscallError("flock", err))
	}
	return dir, nil
}

// walk calls visit with path and each cgroup below it. Cgroups that vanish meanwhile are
// left out.
func walk(path string, visit func(path string) error) error {
	return filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		return visit(at)
	})
}
