package supervise

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sd_listen_fds(3) and sd_listen_fds_with_names(3).
func TestParse(t *testing.T) {
	rows := []struct {
		name    string
		env     string // VARIABLE=VALUE, separated by spaces
		want    []Socket
		upgrade bool
		fails   string
	}{
		{name: "nothing"},
		{name: "one, named", env: "LISTEN_PID=42 LISTEN_FDS=1 LISTEN_FDNAMES=web",
			want: []Socket{{FD: 3, Name: "systemd:web", Held: true}}},
		{name: "two with one name", env: "LISTEN_PID=42 LISTEN_FDS=2 LISTEN_FDNAMES=web:web",
			want: []Socket{{FD: 3, Name: "systemd:web", Held: true}, {FD: 4, Name: "systemd:web", Held: true}}},
		{name: "without names", env: "LISTEN_PID=42 LISTEN_FDS=1",
			want: []Socket{{FD: 3, Name: "systemd:unknown", Held: true}}},
		{name: "an empty name", env: "LISTEN_PID=42 LISTEN_FDS=2 LISTEN_FDNAMES=:b",
			want: []Socket{{FD: 3, Name: "systemd:unknown", Held: true}, {FD: 4, Name: "systemd:b", Held: true}}},
		{name: "of another process", env: "LISTEN_PID=41 LISTEN_FDS=1 LISTEN_FDNAMES=web"},
		{name: "without LISTEN_PID", env: "LISTEN_FDS=1 LISTEN_FDNAMES=web"},
		{name: "too few names", env: "LISTEN_PID=42 LISTEN_FDS=2 LISTEN_FDNAMES=web", fails: "has 1 names, but LISTEN_FDS is 2"},
		{name: "no number", env: "LISTEN_PID=42 LISTEN_FDS=two", fails: `"two" is not a number`},
		{name: "too many", env: "LISTEN_PID=42 LISTEN_FDS=1000000", fails: "is not a number of sockets"},
		{name: "negative", env: "LISTEN_PID=42 LISTEN_FDS=-1", fails: "is not a number of sockets"},
		{name: "an upgrade", env: `_UNPROXY_UPGRADE=[{"Name":"systemd:web","Held":true},{"Name":"unix:/s"}]`, upgrade: true,
			want: []Socket{{FD: 4, Name: "systemd:web", Held: true}, {FD: 5, Name: "unix:/s"}}},
		{name: "an upgrade of nothing", env: "_UNPROXY_UPGRADE=[]", upgrade: true},
		{name: "an upgrade that cannot be read", env: "_UNPROXY_UPGRADE=1", fails: "read _UNPROXY_UPGRADE"},
	}
	for _, row := range rows {
		env := map[string]string{}
		for _, entry := range strings.Fields(row.env) {
			name, value, _ := strings.Cut(entry, "=")
			env[name] = value
		}
		got, upgrade, err := parse(func(k string) string { return env[k] }, 42)
		if (err != nil) != (row.fails != "") || err != nil && !strings.Contains(err.Error(), row.fails) {
			t.Errorf("%s: %v, want %q", row.name, err, row.fails)
		}
		if !slices.Equal(got, row.want) || upgrade != row.upgrade {
			t.Errorf("%s: %+v, upgrade %v; want %+v, %v", row.name, got, upgrade, row.want, row.upgrade)
		}
	}
}

// open returns a socket that is neither listening nor connected.
func open(t *testing.T, family, kind, protocol int) int {
	t.Helper()
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		t.Skipf("no socket of family %d, type %d, protocol %d: %v", family, kind, protocol, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func listening(t *testing.T, fd int, at unix.Sockaddr) int {
	t.Helper()
	if err := unix.Bind(fd, at); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestInspect(t *testing.T) {
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	path := filepath.Join(shortDir(t), "s")
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pipe[0]); unix.Close(pipe[1]) })
	rows := []struct {
		name  string
		fd    func(t *testing.T) int
		bound string // a pattern of the address, or the path
		fault string
	}{
		{name: "IPv4", bound: "127.0.0.1:", fd: func(t *testing.T) int {
			return listening(t, open(t, unix.AF_INET, unix.SOCK_STREAM, 0), loopback)
		}},
		{name: "IPv6", bound: "[::]:", fd: func(t *testing.T) int {
			return listening(t, open(t, unix.AF_INET6, unix.SOCK_STREAM, 0), &unix.SockaddrInet6{})
		}},
		{name: "4-in-6", bound: "127.0.0.1:", fd: func(t *testing.T) int {
			at := &unix.SockaddrInet6{Addr: [16]byte{10: 0xff, 11: 0xff, 12: 127, 15: 1}}
			return listening(t, open(t, unix.AF_INET6, unix.SOCK_STREAM, 0), at)
		}},
		{name: "unix", bound: path, fd: func(t *testing.T) int {
			return listening(t, open(t, unix.AF_UNIX, unix.SOCK_STREAM, 0), &unix.SockaddrUnix{Name: path})
		}},
		{name: "abstract", bound: "@unproxy-test", fd: func(t *testing.T) int {
			at := &unix.SockaddrUnix{Name: fmt.Sprintf("@unproxy-test-%d", os.Getpid())}
			return listening(t, open(t, unix.AF_UNIX, unix.SOCK_STREAM, 0), at)
		}},
		{name: "a FIFO", fault: "is not a socket", fd: func(*testing.T) int { return pipe[0] }},
		{name: "ListenDatagram=", fault: "is not a stream socket", fd: func(t *testing.T) int {
			return open(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
		}},
		{name: "ListenSequentialPacket=", fault: "is not a stream socket", fd: func(t *testing.T) int {
			at := &unix.SockaddrUnix{Name: path + "2"}
			return listening(t, open(t, unix.AF_UNIX, unix.SOCK_SEQPACKET, 0), at)
		}},
		{name: "Accept=yes", fault: "is a connection", fd: func(t *testing.T) int {
			return open(t, unix.AF_INET, unix.SOCK_STREAM, 0)
		}},
		{name: "SocketProtocol=mptcp", fault: "is not plain TCP", fd: func(t *testing.T) int {
			return listening(t, open(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), loopback)
		}},
		{name: "vsock", fault: "is neither an IP", fd: func(t *testing.T) int {
			at := &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY}
			return listening(t, open(t, unix.AF_VSOCK, unix.SOCK_STREAM, 0), at)
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := Socket{FD: row.fd(t)}
			if err := s.inspect(); err != nil {
				t.Fatal(err)
			}
			bound := s.Path
			if s.Addr.IsValid() {
				bound = s.Addr.String()
			}
			if !strings.HasPrefix(bound, row.bound) || (bound == "") != (row.bound == "") {
				t.Errorf("bound to %q, want %q", bound, row.bound)
			}
			if !strings.HasPrefix(s.Fault, row.fault) || (s.Fault == "") != (row.fault == "") ||
				(s.Hint == "") != (s.Fault == "") {
				t.Errorf("fault %q (%q), want %q", s.Fault, s.Hint, row.fault)
			}
			flags, err := unix.FcntlInt(uintptr(s.FD), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("flags %#x, %v; want O_NONBLOCK", flags, err)
			}
			if flags, err := unix.FcntlInt(uintptr(s.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor flags %#x, %v; want FD_CLOEXEC", flags, err)
			}
		})
	}
}

// If LISTEN_FDS is too large, inspecting a closed descriptor fails, before the gateway
// could take one of its own descriptors for an inherited socket.
func TestInspectClosed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	s := Socket{FD: 1 << 20, Name: "web"}
	if err := s.inspect(); err == nil || !strings.Contains(err.Error(), `descriptor 1048576, "web"`) {
		t.Errorf("a closed descriptor: %v", err)
	}
}
