package kernel

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ChmodSocket sets the mode of the unix socket at path. It does not follow a
// symbolic link, and it refuses any other file: in a directory where others may
// write, the path may have been replaced since bind(2).
//
// A descriptor that is opened with O_PATH refers to the file itself, and the link in
// /proc leads to that file whatever the path has become (open(2), proc(5)). fchmodat(2)
// without following links came only with Linux 6.6.
func ChmodSocket(path string, mode fs.FileMode) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return &fs.PathError{Op: "fstat", Path: path, Err: err}
	}
	if info.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s is no longer a socket", path)
	}
	// The user of this process may not be the owner, after an upgrade with --user.
	if fs.FileMode(info.Mode&0o777) == mode.Perm() {
		return nil
	}
	return os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}
