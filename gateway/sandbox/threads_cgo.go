//go:build cgo

package sandbox

import (
	"errors"
	"os"
	"strconv"
)

// threads returns an error if the system calls of this package cannot reach every thread.
// With cgo, libcap's package psx signals the threads that it finds in /proc/self, and
// waits without end if /proc belongs to another PID namespace (pid_namespaces(7)).
func threads() error {
	self, err := os.Readlink("/proc/self")
	if err != nil || self != strconv.Itoa(os.Getpid()) {
		return errors.New("/proc is not mounted for the PID namespace of this process, and the program was built with cgo")
	}
	return nil
}
