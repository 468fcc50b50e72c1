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
	l, err := Listen(Control, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// The file of a unix socket has its mode independent of the umask, and from its
// creation: nothing widens that of an admin endpoint afterwards.
func TestSocketMode(t *testing.T) {
	for _, tt := range []struct {
		kind  Kind
		umask int
		want  os.FileMode
	}{
		{Control, 0, 0o600}, {Control, 0o022, 0o600},
		{Probes, 0, 0o666}, {Probes, 0o077, 0o666},
	} {
		restore := syscall.Umask(tt.umask)
		path := filepath.Join(t.TempDir(), "endpoint.sock")
		l, err := Listen(tt.kind, Address{Path: path})
		syscall.Umask(restore)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != os.ModeSocket|tt.want {
			t.Errorf("%s, umask %o: mode %v, %v; want a socket with mode %o", tt.kind, tt.umask, info.Mode(), err, tt.want)
		}
		l.Close()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket exists after Close: %v", err)
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	crashed := open(t, Address{Path: path})
	crashed.(*net.UnixListener).SetUnlinkOnClose(false)
	_, err := Listen(Control, Address{Path: path})
	if err == nil || !strings.Contains(err.(*ListenError).Hint(), "ss -lxp") {
		t.Errorf("a socket in use was replaced: %v", err)
	}
	crashed.Close()
	open(t, Address{Path: path})
}

func TestOtherFileIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Control, Address{Path: path}); err == nil {
		t.Error("a file was replaced by a socket")
	}
	if content, err := os.ReadFile(path); string(content) != "x" {
		t.Errorf("the file holds %q, %v", content, err)
	}
}

func TestListenErrors(t *testing.T) {
	taken := AddressOf(open(t, Address{TCP: netip.MustParseAddrPort("127.0.0.1:0")}))
	if taken.TCP.Port() == 0 {
		t.Fatal("AddressOf returned no port")
	}
	for _, tt := range []struct {
		address    Address
		text, hint string
	}{
		{taken, "open the admin endpoint on " + taken.String() + ": ", "ss -tanp"},
		{Address{TCP: netip.MustParseAddrPort("192.0.2.1:1")}, "on 192.0.2.1:1: ", "ip address"},
		{Address{Path: filepath.Join(t.TempDir(), "none", "s")}, "on unix:/", "the directory"},
	} {
		_, err := Listen(Control, tt.address)
		var failed *ListenError
		if !errors.As(err, &failed) {
			t.Errorf("%v: %v; want a ListenError", tt.address, err)
			continue
		}
		if !strings.Contains(err.Error(), tt.text) || !strings.Contains(failed.Hint(), tt.hint) {
			t.Errorf("%v: %v, hint %q; want %q, hint %q", tt.address, err, failed.Hint(), tt.text, tt.hint)
		}
	}
}
