package kernel

import (
	"bytes"
	"math/rand/v2"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Peek leaves the bytes in the socket and Discard takes them, in parts of every size, past the
// boundaries of writes, on TCP and unix sockets (tcp(7), MSG_TRUNC).
func TestPeekAndDiscard(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			at := "127.0.0.1:0"
			if network == "unix" {
				at = filepath.Join(t.TempDir(), "socket")
			}
			ln, err := net.Listen(network, at)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			ours, err := net.Dial(network, ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			theirs, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 50_000)
			rand.NewChaCha8([32]byte{1}).Read(data)
			for _, part := range [][]byte{data[:1], data[1:3000], data[3000:]} {
				if _, err := theirs.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			theirs.Close()
			raw, err := ours.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Read(func(fd uintptr) bool { return expectPeeks(t, int(fd), data) }); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// expectPeeks reads everything from a socket by peeks.
func expectPeeks(t *testing.T, fd int, data []byte) bool {
	k, b := System(), make([]byte, 20_000)
	for size := 1; len(data) > 0; size *= 3 {
		n, errno := k.Peek(fd, b[:min(size, len(b))])
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 || !bytes.Equal(b[:n], data[:n]) {
			t.Fatalf("Peek: %d bytes, %v, or different ones; %d are left", n, errno, len(data))
		}
		take := (n + 1) / 2
		if m, errno := k.Discard(fd, b[:take]); errno != 0 || m != take {
			t.Fatalf("Discard of %d bytes: %d, %v", take, m, errno)
		}
		data = data[take:]
	}
	if n, errno := k.Peek(fd, b); n != 0 || errno != 0 {
		t.Errorf("at the end: %d bytes, %v", n, errno)
	}
	return true
}
