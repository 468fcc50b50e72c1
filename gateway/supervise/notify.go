// Package supervise connects the process with its supervisor: it reports the state of
// the service to systemd, receives sockets from systemd or from the previous process,
// and starts the process that takes over from this one.
//
// It does not know the purpose of the sockets. Formats are those of sd_notify(3),
// sd_listen_fds(3) and sd_watchdog_enabled(3).
package supervise

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// Assignments of sd_notify(3) without a parameter.
const (
	Ready    = systemd.SdNotifyReady
	Stopping = systemd.SdNotifyStopping
	Watchdog = systemd.SdNotifyWatchdog
)

// notifyTimeout limits the time that a message waits for space in systemd's queue.
const notifyTimeout = time.Second

// Notifier sends messages to the socket in NOTIFY_SOCKET, one after the other. It is
// safe for concurrent use.
type Notifier struct {
	sending chan struct{} // holds a value while a message is being sent
}

// NewNotifier returns a notifier.
func NewNotifier() *Notifier { return &Notifier{sending: make(chan struct{}, 1)} }

// Tell sends the assignments in one message. Without NOTIFY_SOCKET it does nothing. It
// fails if systemd does not accept the message within a second. The message may still
// arrive later; until then, other messages fail as well, so that a hanging service
// manager costs only one goroutine and one descriptor.
func (n *Notifier) Tell(assignments ...string) error {
	timeout := time.NewTimer(notifyTimeout)
	defer timeout.Stop()
	select {
	case n.sending <- struct{}{}:
	case <-timeout.C:
		return errNotTaken
	}
	sent := make(chan error, 1)
	go func() {
		_, err := systemd.SdNotify(false, strings.Join(assignments, "\n"))
		<-n.sending
		sent <- err
	}()
	select {
	case err := <-sent:
		if err != nil {
			return fmt.Errorf("notify systemd: %w", err)
		}
		return nil
	case <-timeout.C:
		return errNotTaken
	}
}

var errNotTaken = fmt.Errorf("notify systemd: no message was accepted within %v", notifyTimeout)

// Status returns the assignment of the line that "systemctl status" shows. It replaces
// line ends in text, which separate assignments, by spaces.
func Status(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	return "STATUS=" + strings.Join(lines, " ")
}

// MainPID declares a process the main process of the service.
func MainPID(pid int) string { return "MAINPID=" + strconv.Itoa(pid) }

// ExtendTimeout asks systemd to wait for d before a start or a stop times out.
func ExtendTimeout(d time.Duration) string {
	return "EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10)
}

// Reloading reports that a reload begins now; [Ready] ends it. It includes the time,
// as Type=notify-reload requires.
func Reloading() string {
	return strings.TrimSuffix(systemd.SdNotifyReloading+"\n"+systemd.SdNotifyMonotonicUsec(), "\n")
}

// WatchdogInterval returns the maximum time between [Watchdog] messages; 0 means that
// the watchdog is off, or that WATCHDOG_PID is another process. It reads
// WATCHDOG_USEC and WATCHDOG_PID.
func WatchdogInterval() (time.Duration, error) {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		return 0, err
	}
	text := os.Getenv("WATCHDOG_USEC")
	if usec, err := strconv.ParseInt(text, 10, 64); interval != 0 && (err != nil || interval.Microseconds() != usec) {
		return 0, fmt.Errorf("WATCHDOG_USEC %.40q is out of range", text) // the library lets it overflow
	}
	return interval, nil
}
