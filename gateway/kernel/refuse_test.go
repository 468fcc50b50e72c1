package kernel

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Where a listener cannot be bound to another interface, the filter drops new handshakes; connections in the queue
// are still accepted.
func TestIgnoreHandshakes(t *testing.T) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // which has no filters
	l, err := config.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	queued, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer queued.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var errno unix.Errno
	raw.Control(func(fd uintptr) { errno = ignoreHandshakes(int(fd)) })
	if errno == unix.EPERM {
		t.Skip("this kernel refuses filters to a process with no_new_privs")
	}
	if errno != 0 {
		t.Fatal(errno)
	}
	var waited net.Error
	if _, err := net.DialTimeout("tcp4", l.Addr().String(), 50*time.Millisecond); !errors.As(err, &waited) ||
		!waited.Timeout() {
		t.Errorf("a new handshake: %v, want no answer", err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
