package lab

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Container says how a process is confined: what a container engine does with the image
// and its settings, as far as it decides what the process may do.
type Container struct {
	// Root is the directory of the image's root file system. See [ReadOnly].
	Root string
	// UID is the user and the group. Root is 0 and has the capabilities of the Command;
	// others have none.
	UID int
	// NoNewPrivileges is allowPrivilegeEscalation: false of Kubernetes.
	NoNewPrivileges bool
	// Host has the network; nil is that of the test.
	Host *Host
}

// confine prepares the thread that starts the process. It ends with it.
func (c *Container) confine() error {
	if c.Host != nil {
		if err := enter(c.Host.pid); err != nil {
			return err
		}
	}
	if c.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
	return nil
}

// attributes of the process in the container.
func (c *Container) attributes() *syscall.SysProcAttr {
	id := uint32(c.UID)
	return &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Chroot:     c.Root,
		Credential: &syscall.Credential{Uid: id, Gid: id},
	}
}

// ReadOnly mounts a root file system read-only, with directories of the host in it, such
// as volumes: the path inside and the path of the host. As in a container, sysctls cannot
// be written. It returns the directory for [Container]. The test needs a mount namespace
// of its own.
func ReadOnly(t testing.TB, root string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("mount --bind %s %[2]s\nmkdir -p %[2]s/proc\n", root, dir)
	for inside, outside := range files {
		script += fmt.Sprintf("mkdir -p %[1]s%[2]s; mount --bind -o ro %[3]s %[1]s%[2]s\n", dir, inside, outside)
	}
	Shell(t, script+fmt.Sprintf(`mount -o remount,bind,ro,nosuid,nodev %[1]s
		mount --rbind /proc %[1]s/proc
		mount --bind /proc/sys %[1]s/proc/sys
		mount -o remount,bind,ro %[1]s/proc/sys`, dir))
	t.Cleanup(func() { Shell(t, "umount --recursive --lazy "+dir) })
	return dir
}
