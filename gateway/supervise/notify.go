// Package supervise is what the gateway has to do with whoever supervises it:
// it tells systemd how it fares, takes the sockets that systemd or the process
// before it hands over, and starts the process that is to come after it.
//
// Nothing here knows what the sockets are for. The wire formats are those of
// sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3); they are written
// out here because the usual library for them links a TLS stack.
package supervise

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells systemd what state the service is in. Its zero value tells
// nobody. It may be used from any goroutine.
type Notifier struct {
	// Socket is the value of NOTIFY_SOCKET: the path of a unix datagram
	// socket, or after "@" its abstract name. "" is none.
	Socket string
}

// What there is to tell (sd_notify(3)).
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Watchdog = "WATCHDOG=1"
)

// notifyPatience is how long a message waits for room in systemd's queue.
const notifyPatience = time.Second

// Tell sends the assignments in one message.
func (n Notifier) Tell(assignments ...string) error {
	if n.Socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.Socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(notifyPatience)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	if _, err := c.Write([]byte(strings.Join(assignments, "\n"))); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// Status is the line that "systemctl status" shows. Line ends in text become
// spaces: they would begin another assignment.
func Status(text string) string {
	return "STATUS=" + strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}

// MainPID names the process that is the service from now on.
func MainPID(pid int) string { return "MAINPID=" + strconv.Itoa(pid) }

// ExtendTimeout asks systemd to wait for so long before it takes a start or a
// stop for hung.
func ExtendTimeout(d time.Duration) string {
	return "EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10)
}

// Reloading says that a reload began now; [Ready] says that it ended. Services
// of type notify-reload must tell the time.
func Reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "RELOADING=1" // there is no Linux without that clock
	}
	return "RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10)
}

// WatchdogInterval returns how often at least systemd wants to hear [Watchdog]
// from this process, by the variables of its environment; 0 is never. A
// process whose environment names another one need not.
func WatchdogInterval(getenv func(string) string, pid int) (time.Duration, error) {
	text := getenv("WATCHDOG_USEC")
	if text == "" {
		return 0, nil
	}
	if of := getenv("WATCHDOG_PID"); of != "" && of != strconv.Itoa(pid) {
		return 0, nil
	}
	usec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || usec <= 0 || usec > int64(365*24*time.Hour/time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC %.40q is not a number of microseconds", text)
	}
	return time.Duration(usec) * time.Microsecond, nil
}
