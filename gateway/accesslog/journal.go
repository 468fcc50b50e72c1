package accesslog

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// IsJournal reports whether w leads to systemd's journal. stream is the value of the
// variable JOURNAL_STREAM, the device and inode numbers of the journal's socket
// (systemd.exec(5)): a process may have inherited the variable and have another stderr.
func IsJournal(w io.Writer, stream string) bool {
	device, inode, found := strings.Cut(stream, ":")
	wantDevice, err1 := strconv.ParseUint(device, 10, 64)
	wantInode, err2 := strconv.ParseUint(inode, 10, 64)
	f, isFile := w.(syscall.Conn)
	if !found || err1 != nil || err2 != nil || !isFile {
		return false
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var info unix.Stat_t
	var statErr error
	err = raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &info) })
	return err == nil && statErr == nil && info.Dev == wantDevice && info.Ino == wantInode
}

// The priorities of lines in the journal (sd-daemon(3)).
const (
	PriorityError   = "<3>"
	PriorityWarning = "<4>"
	priorityInfo    = "<6>"
	priorityDebug   = "<7>"
)

// priorityOf returns the priority of a JSON line, whose first key is its level.
func priorityOf(line []byte) string {
	for _, p := range [...]struct{ start, priority string }{
		{`{"level":"info"`, priorityInfo}, {`{"level":"debug"`, priorityDebug},
		{`{"level":"warn"`, PriorityWarning}, {`{"level":"error"`, PriorityError},
	} {
		if bytes.HasPrefix(line, []byte(p.start)) {
			return p.priority
		}
	}
	return priorityInfo
}
