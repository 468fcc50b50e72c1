package sandbox

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// PermitsMarks reports whether a capability that the process has permits SO_MARK without any
// other. CAP_NET_RAW does since Linux 5.17.
func PermitsMarks(c Capability) bool {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if unix.Capget(&header, &before[0]) != nil {
		return false
	}
	alone := before
	alone[0].Effective, alone[1].Effective = 0, 0
	alone[c/32].Effective = 1 << (c % 32)
	if unix.Capset(&header, &alone[0]) != nil {
		return false // the process does not have it
	}
	// The permitted set has not changed, so this cannot fail. Threads that differ would end the
	// process when it drops capabilities of all (AllThreadsSyscall).
	defer unix.Capset(&header, &before[0])
	return setMark() == nil
}

func setMark() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1)
}
