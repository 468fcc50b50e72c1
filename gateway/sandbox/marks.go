package sandbox

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// PermitsMarks reports whether a capability that the process has permits SO_MARK without any
// other. CAP_NET_RAW does since Linux 5.17.
func PermitsMarks(c Capability) bool {
	permits := make(chan bool)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		permits <- keepAlone(c) == nil && setMark() == nil
	}()
	return <-permits
}

// keepAlone drops all other capabilities of this thread.
func keepAlone(c Capability) error {
	var sets [2]unix.CapUserData
	sets[c/32].Effective = 1 << (c % 32)
	sets[c/32].Permitted = 1 << (c % 32)
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0])
}

func setMark() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1)
}
