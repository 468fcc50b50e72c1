package engine

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// exchange sends a request and a response through the engine, and returns the record.
func (l *realEngine) exchange(client halfCloser, ln net.Listener) record.Connection {
	l.Helper()
	backend := accept(l.T, ln)
	sendAll(l.T, client, []byte("question"))
	expectAll(l.T, backend, []byte("question"))
	sendAll(l.T, backend, []byte("answer"))
	expectAll(l.T, client, []byte("answer"))
	return l.expectRecord(record.OK, record.Client)
}

func requireIPv6(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this host has no IPv6: %v", err)
	}
	ln.Close()
}

func TestRealIPv6(t *testing.T) {
	requireIPv6(t)
	ln := listen(t, "tcp", "[::1]:0")
	f := loopback(forward.Endpoint{Addr: ln.Addr().(*net.TCPAddr).AddrPort()})
	f.Listeners[0].Endpoint.Addr = netip.MustParseAddrPort("[::1]:0")
	l := startReal(t, f)
	client := l.dial(0, v2(client6, dest6))
	c := l.exchange(client, ln)
	if c.Peer.Addr() != netip.IPv6Loopback() || c.Client != client6 {
		t.Errorf("peer %v, client %v", c.Peer, c.Client)
	}
}

// A dual-stack listener accepts both families and reports IPv4 peers as IPv4. A listener that is
// not accepts only IPv6 and leaves the port free for IPv4.
func TestRealDualStack(t *testing.T) {
	requireIPv6(t)
	ln, to := server(t)
	both, six := loopback(to), loopback(to)
	both.Listeners[0].Endpoint.Addr, both.Listeners[0].DualStack = netip.MustParseAddrPort("[::]:0"), true
	six.Listeners[0].Endpoint.Addr = netip.MustParseAddrPort("[::]:0")
	l := startReal(t, both, six)
	for host, want := range map[string]string{"127.0.0.1": "127.0.0.1", "::1": "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(host), l.Bound()[0].Addr.Port())
		if c := l.exchange(l.connect("tcp", to.String(), header), ln); c.Peer.Addr().String() != want {
			t.Errorf("a peer from %s is reported as %v", host, c.Peer)
		}
	}
	to4 := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), l.Bound()[1].Addr.Port())
	if conn, err := net.Dial("tcp", to4.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("IPv4 to an IPv6 listener: %v", err)
		conn.Close()
	}
}

// On a host without IPv6, a dual-stack listener listens on IPv4.
func TestDualStackWithoutIPv6(t *testing.T) {
	for _, dual := range []bool{true, false} {
		f := plainForward(serverA)
		f.Listeners[0].Endpoint.Addr, f.Listeners[0].DualStack = netip.MustParseAddrPort("[::]:80"), dual
		k := newScript(t, 0)
		k.bindError = func(a netip.AddrPort) unix.Errno {
			if a.Addr().Is6() {
				return unix.EADDRNOTAVAIL
			}
			return 0
		}
		e, err := New(Config{Kernel: k, Forwards: []*forward.Forward{f}})
		if !dual {
			if err == nil || k.used != 0 {
				t.Errorf("not dual-stack: %v, %d descriptors", err, k.used)
			}
			continue
		}
		if err != nil || e.Bound()[0].Addr != netip.MustParseAddrPort("0.0.0.0:80") {
			t.Errorf("dual-stack: %v", err)
		}
	}
}

// Port 0 binds a free port. Bound returns it, in the order of the forwards.
func TestRealBound(t *testing.T) {
	lnA, toA := server(t)
	lnB, toB := server(t)
	l := startReal(t, loopback(toA), loopback(toB))
	bound := l.Bound()
	if len(bound) != 2 || bound[0].Addr.Port() == 0 || bound[0] == bound[1] {
		t.Fatalf("bound to %v", bound)
	}
	l.exchange(l.dial(1, header), lnB)
	l.exchange(l.dial(0, header), lnA)
}

func TestRealPortInUse(t *testing.T) {
	_, to := server(t)
	f := loopback(to)
	f.Listeners[0].Endpoint = to
	_, err := New(Config{Forwards: []*forward.Forward{f}})
	if e := (*ListenError)(nil); !errors.As(err, &e) || !errors.Is(err, syscall.EADDRINUSE) ||
		!strings.Contains(e.Hint(), "in use") {
		t.Errorf("listen on a port in use: %v", err)
	}
}

// The hint for a unix socket names no port.
func TestHintForSocketInUse(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   netip.AddrPort
		want string
	}{
		{"unix:/run/a", netip.AddrPort{}, "ss -lxp"},
		{":80", netip.MustParseAddrPort("0.0.0.0:80"), "ss -tuanp"},
	} {
		e := &ListenError{Name: tt.name, Address: tt.at, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
		if hint := e.Hint(); !strings.Contains(hint, tt.want) {
			t.Errorf("hint for %s: %q; want %q", tt.name, hint, tt.want)
		}
	}
}

// socketPath returns a path that fits a sockaddr_un, whatever the temporary directory is.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "unproxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// A unix listener has the configured mode, trusts its peers whatever the rules are, and removes its
// file.
func TestRealUnixSockets(t *testing.T) {
	path := socketPath(t)
	ln := listen(t, "unix", path+"-backend")
	f := loopback(forward.Endpoint{Path: path + "-backend"})
	f.Listeners[0].Endpoint = forward.Endpoint{Path: path}
	f.SocketMode, f.Trust = 0o640, prefixes{}
	t.Run("live", func(t *testing.T) {
		l := startReal(t, f)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if c := l.exchange(l.dial(0, header), ln); c.Client != client4 || c.Peer.IsValid() ||
			c.BackendPath != path+"-backend" {
			t.Errorf("client %v, peer %v, backend %q", c.Client, c.Peer, c.BackendPath)
		}
	})
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file was not removed: %v", err)
	}
}

// Bulk data between unix sockets is spliced, too.
func TestRealUnixBulk(t *testing.T) {
	path := socketPath(t)
	ln := listen(t, "unix", path+"-backend")
	f := loopback(forward.Endpoint{Path: path + "-backend"})
	f.Listeners[0].Endpoint, f.SocketMode = forward.Endpoint{Path: path}, 0o600
	l := startReal(t, f)
	client := l.dial(0, header)
	backend := accept(t, ln)
	data := randomBytes(8 << 20)
	go sendAll(t, client, data)
	expectAll(t, backend, data)
	go sendAll(t, backend, data)
	expectAll(t, client, data)
	l.expectRecord(record.OK, record.Client)
}

// A socket file left by a crash is replaced. A socket that is listened on is not, nor is a regular
// file.
func TestRealStaleSocket(t *testing.T) {
	path := socketPath(t)
	ln := listen(t, "unix", path)
	f := loopback(serverA)
	f.Listeners[0].Endpoint, f.SocketMode = forward.Endpoint{Path: path}, 0o600
	if _, err := New(Config{Forwards: []*forward.Forward{f}}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a socket in use: %v", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	t.Run("stale", func(t *testing.T) { startReal(t, f).dial(0, "") })
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Forwards: []*forward.Forward{f}}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a file: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file contains %q", b)
	}
}

func TestRealAbstractSocket(t *testing.T) {
	ln, to := server(t)
	f := loopback(to)
	f.Listeners[0].Endpoint = forward.Endpoint{Path: "@unproxy-test-" + filepath.Base(filepath.Dir(socketPath(t)))}
	l := startReal(t, f)
	l.exchange(l.dial(0, header), ln)
}

// Accepted sockets inherit the listener's options, and the backend's socket gets the same.
// A listener on all addresses shares its port with clients whose port it has, if any forward of TCP
// connects from clients' ports; no other listener does.
func TestListenerSharesPort(t *testing.T) {
	const wildcard, one = "0.0.0.0:514", "192.0.2.80:514"
	for _, tt := range []struct {
		at   string
		port transparent.SourcePort
		kind func(*forward.Forward) // of the other forward
		want bool
	}{
		{wildcard, transparent.Prefer, func(f *forward.Forward) { f.Transparent = true }, true},
		{wildcard, transparent.Keep, func(f *forward.Forward) { f.Transparent = true }, true},
		{"[::]:514", transparent.Keep, func(f *forward.Forward) { f.Transparent = true }, true},
		{wildcard, transparent.Any, func(f *forward.Forward) { f.Transparent = true }, false},
		{wildcard, transparent.Keep, func(*forward.Forward) {}, false},
		{wildcard, transparent.Keep, func(f *forward.Forward) { f.Transparent, f.Datagrams = true, true }, false},
		{one, transparent.Keep, func(f *forward.Forward) { f.Transparent = true }, false},
	} {
		f, other := plainForward(serverA), plainForward(serverA)
		f.Listeners[0].Endpoint.Addr = netip.MustParseAddrPort(tt.at)
		other.Source.SourcePort = tt.port
		tt.kind(other)
		r := newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{f, other}})
		shared := [3]int{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}
		if got := slices.Contains(r.listenerSocket(0).options, shared); got != tt.want {
			t.Errorf("%+v: shared %v", tt, got)
		}
	}
}

func TestRealSocketOptions(t *testing.T) {
	ln, to := server(t)
	f := loopback(to)
	f.Keepalive, f.UserTimeout = 15*time.Second, 20*time.Second
	l := startReal(t, f)
	client := l.dial(0, header+"one")
	backend := accept(t, ln)
	three := make([]byte, 3)
	for _, word := range []string{"one", "two"} { // the options of the second write are set when "two" arrives
		if _, err := io.ReadFull(backend, three); err != nil || string(three) != word {
			t.Fatalf("%q of %q: %v", three, word, err)
		}
		if _, err := client.Write([]byte("two")); err != nil {
			t.Fatal(err)
		}
	}
	want := [][3]int{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 20000},
	}
	looked := make(chan int, 2)
	for _, loop := range l.loops {
		loop.call(func() {
			n := 0
			for s := range loop.sessions.live() {
				if s.state == relaying {
					s.connectedAt -= int64(f.Keepalive)
					s.handleTimeout(loop)
				}
				for i, d := range s.sides {
					for _, o := range want {
						n++
						if v, err := unix.GetsockoptInt(int(d.fd), o[0], o[1]); err != nil ||
							v != o[2] && !(o[2] == 1 && v != 0) {
							t.Errorf("side %d, level %d, option %d: %d (%v), want %d", i, o[0], o[1], v, err, o[2])
						}
					}
				}
			}
			looked <- n
		})
	}
	if n := <-looked + <-looked; n != 2*len(want) {
		t.Errorf("checked %d options", n)
	}
}
