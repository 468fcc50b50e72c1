package admin

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func open(t *testing.T, a Address) net.Listener {
	t.Helper()
	l, err := Listen(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A unix socket has its mode whatever the umask is, and from its first moment:
// nothing sets it afterwards.
func TestSocketMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "admin.sock")
	l := open(t, Address{Path: path})
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v; want a socket with 0600", info.Mode(), err)
	}
	l.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there after Close: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	crashed := open(t, Address{Path: path})
	crashed.(*net.UnixListener).SetUnlinkOnClose(false)
	if _, err := Listen(Address{Path: path}); err == nil || !strings.Contains(err.(*ListenError).Hint(), "ss -lxp") {
		t.Errorf("over a socket that is listened on: %v", err)
	}
	crashed.Close()
	open(t, Address{Path: path})
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Address{Path: path}); err == nil {
		t.Error("listens in the place of a file")
	}
	if content, err := os.ReadFile(path); string(content) != "x" {
		t.Errorf("the file holds %q, %v", content, err)
	}
}

func TestListenErrors(t *testing.T) {
	taken := AddressOf(open(t, Address{TCP: netip.MustParseAddrPort("127.0.0.1:0")}))
	if taken.TCP.Port() == 0 {
		t.Fatal("AddressOf does not tell the port")
	}
	for _, tt := range []struct {
		address     Address
		text, hints string
	}{
		{taken, "open the admin endpoint on " + taken.String() + ": ", "ss -ltnp"},
		{Address{TCP: netip.MustParseAddrPort("192.0.2.1:1")}, "on 192.0.2.1:1: ", "ip address"},
		{Address{Path: filepath.Join(t.TempDir(), "none", "s")}, "on unix:/", "the directory"},
	} {
		_, err := Listen(tt.address)
		var failed *ListenError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), tt.text) || !strings.Contains(failed.Hint(), tt.hints) {
			t.Errorf("%v: %v; want %q and the hint %q", tt.address, err, tt.text, tt.hints)
		}
	}
}

// No more connections are accepted than there is room for, and the next one is
// as soon as one has gone.
func TestNarrow(t *testing.T) {
	l := newNarrow(open(t, Address{TCP: netip.MustParseAddrPort("127.0.0.1:0")}), 2)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	<-accepted
	if n := len(l.open); n != 2 {
		t.Errorf("%d connections are counted; want 2", n)
	}
	first.Close()
	first.Close() // only once does it make room
	<-accepted
	l.Close()
	if _, more := <-accepted; more {
		t.Error("accepts after Close")
	}
}
