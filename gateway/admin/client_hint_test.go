package admin

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestHintOfUnreachable(t *testing.T) {
	for _, tt := range []struct {
		cause error
		want  string
	}{
		{syscall.ECONNREFUSED, "check that the gateway is running with --admin unix:/run/a"},
		{syscall.ENOENT, "check that the gateway is running with --admin unix:/run/a"},
		{syscall.EACCES, "run this command as root"},
	} {
		at, err := ParseAddress("unix:/run/a", false)
		if err != nil {
			t.Fatal(err)
		}
		e := &UnreachableError{Address: at, Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", tt.cause)}}
		if got := e.Hint(); !strings.Contains(got, tt.want) {
			t.Errorf("%v: hint %q; want %q", tt.cause, got, tt.want)
		}
	}
}
