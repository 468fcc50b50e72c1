package daemon

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"unproxy/gateway/admin"
	"unproxy/gateway/doctor"
)

// Descriptors returns the hard limit on open file descriptors, to which [Run] raises
// the soft limit. 0 is unknown.
func Descriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Max, math.MaxInt32))
}

// PerListener is the number of file descriptors that an upgrade needs for each
// listening socket: one copy.
const PerListener = 1

const (
	// upgradeDescriptors is the number of descriptors for an upgrade besides the
	// copies: two ends of the channel, the list of sockets, the pipe of fork and exec,
	// the process, and the descriptor above all others to which fork moves its pipe.
	upgradeDescriptors = 2 + 1 + 2 + 1 + 1
	// notifyDescriptors is the number of descriptors for a message to systemd.
	notifyDescriptors = 1
	// addressDescriptors is the number of descriptors for the events about the host's
	// addresses and for listing them.
	addressDescriptors = 2
)

// Reserved returns the maximum number of file descriptors that a daemon needs besides
// those of event loops, listeners, connections and copies of listeners. They must be
// available even at the limit of connections.
func Reserved(a Admin) int {
	n := upgradeDescriptors + notifyDescriptors + addressDescriptors + doctor.MaxDescriptors
	for range a.Endpoints() {
		n += admin.Descriptors + PerListener
	}
	return n
}

// raiseDescriptors raises the soft limit on file descriptors to the hard one.
func raiseDescriptors() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if limit.Cur >= limit.Max {
		return nil
	}
	limit.Cur = limit.Max
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
}

// SetThreads raises GOMAXPROCS to one thread per event loop and one for the log, the
// resolver and the garbage collector, which would otherwise wait until a loop pauses.
func SetThreads(loops int) {
	if runtime.GOMAXPROCS(0) < loops+1 {
		runtime.GOMAXPROCS(loops + 1)
	}
}

// backlog returns the kernel's limit on a listener's queue, 0 if it is unknown.
func backlog() int {
	text, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return min(n, math.MaxUint16)
}
