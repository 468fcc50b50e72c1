package probe

import (
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// An untrusted peer may be reset at any moment after the handshake: before
// connect(2) returns, while it writes, or while it reads.
func TestResetHint(t *testing.T) {
	opError := func(call string, errno syscall.Errno) error {
		return &net.OpError{Op: call, Net: "tcp", Err: os.NewSyscallError(call, errno)}
	}
	for _, row := range []struct {
		name      string
		connected bool
		read      error
		write     error
		want      string
	}{
		{"connect", false, opError("connect", syscall.ECONNRESET), nil, "end          reset by the other side (RST) as soon as it accepted"},
		{"read", true, opError("read", syscall.ECONNRESET), nil, "end          reset by the other side (RST)\n"},
		{"write", true, io.EOF, opError("write", syscall.EPIPE), "end          reset by the other side (RST)\n"},
		{"shutdown", true, io.EOF, opError("shutdown", syscall.ENOTCONN), "end          reset by the other side (RST)\n"},
	} {
		p := &plan{network: "tcp", address: "192.0.2.1:1"}
		r := &result{connected: row.connected, local: "127.0.0.1:5"}
		r.fail(row.read, row.write)
		var out strings.Builder
		r.print(&out, p)
		hint := "hint         a gateway resets peers that it does not trust: is this host (127.0.0.1) in its --trust? " +
			"Clients that a rule, a ban or a limit refuses are reset, too. The log of the gateway has the outcome"
		if !strings.Contains(out.String(), row.want) || !strings.Contains(out.String(), hint) || !r.failed() {
			t.Errorf("%s: failed %v, printed\n%s", row.name, r.failed(), out.String())
		}
	}
	r := &result{connected: true, local: "127.0.0.1:5"}
	if r.fail(io.EOF, nil); r.failed() || r.hint(&plan{}) != "" {
		t.Errorf("a normal end: failed %v, hint %q", r.failed(), r.hint(&plan{}))
	}
}

func TestSourceOf(t *testing.T) {
	if got, _, err := net.SplitHostPort(sourceOf("127.0.0.1:9")); err != nil || got != "127.0.0.1" {
		t.Errorf("the source towards 127.0.0.1 is %q, %v", got, err)
	}
	if got := sourceOf("127.0.0.1"); got != "" {
		t.Errorf("an address without a port has the source %q", got)
	}
}
