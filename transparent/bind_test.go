package transparent_test

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/sandbox"
	"unproxy/integration_test/netns"
	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// client is a socket of the gateway to a backend.
type client struct {
	t  *testing.T
	fd int
}

// newClient returns a socket of source's family.
func newClient(t *testing.T, source netip.AddrPort) client {
	t.Helper()
	domain := unix.AF_INET
	if source.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("socket", err))
	}
	t.Cleanup(func() { unix.Close(fd) })
	return client{t, fd}
}

func (c client) connect(backend netip.AddrPort) syscall.Errno {
	c.t.Helper()
	err := unix.Connect(c.fd, sockaddr(backend))
	errno, ok := errors.AsType[syscall.Errno](err)
	if err != nil && !ok {
		c.t.Fatal(err)
	}
	return errno
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// connectFrom binds a new socket to source and connects it. It fails the test if
// either call fails.
func connectFrom(t *testing.T, source, backend netip.AddrPort) {
	t.Helper()
	c := newClient(t, source)
	if errno := transparent.Bind(transparent.System{}, c.fd, source); errno != 0 {
		t.Fatalf("bind to %v: %v", source, errno)
	}
	if errno := c.connect(backend); errno != 0 {
		t.Fatalf("connect from %v to %v: %v", source, backend, errno)
	}
}

// listener is a backend that reports the source of connections.
type listener struct {
	t    *testing.T
	l    net.Listener
	addr netip.AddrPort
}

// listen starts a backend with a return path.
func listen(t *testing.T, address string) listener {
	t.Helper()
	l := listenWithoutReturn(t, address)
	l.applyReturnPath()
	return l
}

func listenWithoutReturn(t *testing.T, address string) listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return listener{t, l, ap(l.Addr().String())}
}

func (l listener) applyReturnPath() {
	l.t.Helper()
	located, err := routing.Locate([]returnpath.Backend{returnpath.Server(l.addr, false)})
	if err == nil {
		err = routing.Apply(l.t.Context(), returnpath.New(located, nil, returnpath.Options{}), func(string) {})
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// seen accepts the next connection and returns its peer.
func (l listener) seen() netip.AddrPort {
	l.t.Helper()
	c, err := l.l.Accept()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	a := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// lo:  backends 127.0.0.1:25 and [::1]:25; clients are foreign addresses
func TestBind(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		v4, v6 := listen(t, "127.0.0.1:25"), listen(t, "[::1]:25")
		type policy = transparent.Policy
		for _, tt := range []struct {
			policy  policy
			client  string
			backend listener
			want    string // port 0: any except 0 and the client's
		}{
			{policy{}, "203.0.113.9:4711", v4, "203.0.113.9:4711"},
			{policy{}, "[2001:db8::9]:4711", v6, "[2001:db8::9]:4711"},
			{policy{SourcePort: transparent.Keep}, "203.0.113.9:80", v4, "203.0.113.9:80"},
			{policy{SourcePort: transparent.Any}, "203.0.113.9:4712", v4, "203.0.113.9:0"},
			{policy{SourcePort: transparent.Any}, "[2001:db8::9]:4712", v6, "[2001:db8::9]:0"},
			{policy{}, "203.0.113.9:0", v4, "203.0.113.9:0"},
			{policy{}, "[2001:db8::9]:0", v6, "[2001:db8::9]:0"},
			{policy{FamilyMismatch: transparent.Map}, "203.0.113.9:4711", v6, "[64:ff9b::203.0.113.9]:4711"},
			{policy{FamilyMismatch: transparent.Map}, "[2001:db8::9]:4711", v4, "244.171.149.255:4711"},
		} {
			from := ap(tt.client)
			choice := tt.policy.Choose(from, tt.backend.addr)
			connectFrom(t, choice.Source, tt.backend.addr)
			got, want := tt.backend.seen(), ap(tt.want)
			if want.Port() == 0 {
				if got.Port() == 0 || got.Port() == from.Port() {
					t.Errorf("%v of %v: the backend saw port %d", tt.policy.SourcePort, from, got.Port())
				}
				got = netip.AddrPortFrom(got.Addr(), 0)
			}
			if got != want {
				t.Errorf("%+v of %v: the backend saw %v, want %v", tt.policy, from, got, want)
			}
		}
	})
}

// lo:  backend 127.0.0.1:25, [::1]:25, reached twice from one address and port
func TestConnectCollision(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		for _, tt := range []struct{ backend, other, source string }{
			{"127.0.0.1:25", "127.0.0.1:26", "203.0.113.9:4711"},
			{"[::1]:25", "[::1]:26", "[2001:db8::9]:4711"},
		} {
			l, other, source := listen(t, tt.backend), listen(t, tt.other), ap(tt.source)
			connectFrom(t, source, l.addr)
			connectFrom(t, source, other.addr) // another backend: no collision
			if got := other.seen(); got != source {
				t.Errorf("the other backend saw %v, want %v", got, source)
			}
			second := newClient(t, source)
			if errno := transparent.Bind(transparent.System{}, second.fd, source); errno != 0 {
				t.Fatalf("second bind to %v: %v, want the collision at connect", source, errno)
			}
			errno := second.connect(l.addr)
			if errno != syscall.EADDRNOTAVAIL || !transparent.RetryConnect(errno) {
				t.Errorf("second connect from %v: %v, want %v, with a retry", source, errno, syscall.EADDRNOTAVAIL)
			}
			connectFrom(t, netip.AddrPortFrom(source.Addr(), 0), l.addr)
			if got := [2]netip.AddrPort{l.seen(), l.seen()}; got[0] != source || got[1].Addr() != source.Addr() ||
				got[1].Port() == source.Port() {
				t.Errorf("the backend saw %v, want %v and another port", got, source)
			}
		}
	})
}

// lo:  a socket without SO_REUSEADDR is bound to 203.0.113.9:4711
func TestBindCollision(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		for _, s := range []string{"203.0.113.9:4711", "[2001:db8::9]:4711"} {
			source := ap(s)
			holder := newClient(t, source)
			if errno := transparent.Bind(unshared{}, holder.fd, source); errno != 0 {
				t.Fatal(errno)
			}
			errno := transparent.Bind(transparent.System{}, newClient(t, source).fd, source)
			if errno != syscall.EADDRINUSE || !transparent.RetryBind(errno) {
				t.Errorf("bind to %v: %v, want %v, with a retry", source, errno, syscall.EADDRINUSE)
			}
		}
	})
}

// A socket on all addresses has the port of foreign ones, unless [SharePort] was
// called for it. The rows cite TCP (inet_bind_conflict) and UDP
// (udp_lib_lport_inuse); those without share are the control.
func TestBindBesideWildcard(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		for _, wildcard := range []string{"0.0.0.0:514", "[::]:514"} {
			for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
				for _, share := range []bool{false, true} {
					for _, source := range []string{"203.0.113.9:514", "[2001:db8::9]:514"} {
						errno := bindBeside(t, ap(wildcard), ap(source), kind, share)
						conflicts := !share && (ap(wildcard).Addr().Is6() || ap(source).Addr().Is4())
						if conflicts != (errno == syscall.EADDRINUSE) || !conflicts && errno != 0 {
							t.Errorf("bind to %s beside %s, kind %d, shared %v: %v", source, wildcard, kind, share, errno)
						}
					}
				}
			}
		}
	})
}

// bindBeside binds a socket to source while another one is bound to wildcard, which
// listens if it is of TCP.
func bindBeside(t *testing.T, wildcard, source netip.AddrPort, kind int, share bool) syscall.Errno {
	t.Helper()
	open := func(a netip.AddrPort) int {
		domain := unix.AF_INET
		if a.Addr().Is6() {
			domain = unix.AF_INET6
		}
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(os.NewSyscallError("socket", err))
		}
		return fd
	}
	listener := open(wildcard)
	defer unix.Close(listener)
	if err := unix.Bind(listener, sockaddr(wildcard)); err != nil {
		t.Fatal(os.NewSyscallError("bind", err))
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(listener, 1); err != nil {
			t.Fatal(os.NewSyscallError("listen", err))
		}
	}
	if share {
		if errno := transparent.SharePort(transparent.System{}, listener); errno != 0 {
			t.Fatal(errno)
		}
	}
	fd := open(source)
	defer unix.Close(fd)
	return transparent.Bind(transparent.System{}, fd, source)
}

// unshared is the kernel without SO_REUSEADDR.
type unshared struct{ transparent.System }

func (u unshared) SetOption(fd, level, name, value int) syscall.Errno {
	if level == unix.SOL_SOCKET && name == unix.SO_REUSEADDR {
		return 0
	}
	return u.System.SetOption(fd, level, name, value)
}

// opaque is the kernel without IP_TRANSPARENT.
type opaque struct{ transparent.System }

func (o opaque) SetOption(fd, level, name, value int) syscall.Errno {
	if level != unix.SOL_SOCKET && (name == unix.IP_TRANSPARENT || name == unix.IPV6_TRANSPARENT) {
		return 0
	}
	return o.System.SetOption(fd, level, name, value)
}

func TestBindNotTransparent(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		for _, s := range []string{"203.0.113.9:4711", "[2001:db8::9]:0"} {
			source := ap(s)
			errno := transparent.Bind(opaque{}, newClient(t, source).fd, source)
			if errno != syscall.EADDRNOTAVAIL || transparent.RetryBind(errno) {
				t.Errorf("bind to %v without IP_TRANSPARENT: %v, want %v, no retry", source, errno, syscall.EADDRNOTAVAIL)
			}
		}
	})
}

// The ephemeral range has two ports, and one client connects twice to each of
// three backends: that works only if ports are chosen at connect(2).
//
// lo:  backends 127.0.0.1:25-27, [::1]:25-27
func TestBindChoosesPortLate(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "20000 20001")
		for _, tt := range []struct {
			source   string
			backends []string
		}{
			{"203.0.113.9:0", []string{"127.0.0.1:25", "127.0.0.1:26", "127.0.0.1:27"}},
			{"[2001:db8::9]:0", []string{"[::1]:25", "[::1]:26", "[::1]:27"}},
		} {
			source := ap(tt.source)
			var last netip.AddrPort
			for _, b := range tt.backends {
				l := listen(t, b)
				last = l.addr
				connectFrom(t, source, l.addr)
				connectFrom(t, source, l.addr)
			}
			third := newClient(t, source)
			if errno := transparent.Bind(transparent.System{}, third.fd, source); errno != 0 {
				t.Fatal(errno)
			}
			if errno := third.connect(last); errno != syscall.EADDRNOTAVAIL {
				t.Errorf("third connection from %v on two ports: %v, want %v", source, errno, syscall.EADDRNOTAVAIL)
			}
		}
	})
}

// TestKernelFillsInLoopback is the reason for the denied sources: it shows which
// source the backend sees.
//
// lo:  backends 127.0.0.1:25, [::1]:25; own network 198.51.100.5/24
// br0: own network 10.77.0.1/24, whose broadcast address is 10.77.0.99
func TestKernelFillsInLoopback(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "address add 198.51.100.5/24 broadcast + dev lo")
		v4, v6 := listen(t, "127.0.0.1:25"), listen(t, "[::1]:25")
		netns.IP(t, "link add br0 type bridge")
		netns.IP(t, "link set br0 up")
		netns.IP(t, "address add 10.77.0.1/24 broadcast 10.77.0.99 dev br0")
		netns.IP(t, "route add broadcast 10.78.0.9 dev br0 table local")
		netns.IP(t, "route add multicast 10.78.0.10 dev br0 table local")
		own, err := transparent.NewOwnAddresses(func() (h transparent.HostAddresses, err error) {
			h.Own, h.Replaced, err = routing.OwnAddresses()
			return h, err
		})
		if err != nil {
			t.Fatal(err)
		}
		p := transparent.Policy{Own: own, Replaced: own.Replaced()}
		for _, tt := range []struct {
			source  string
			backend listener
			want    string
		}{
			{"0.0.0.0:4711", v4, "127.0.0.1:4711"},
			{"224.0.0.1:4712", v4, "127.0.0.1:4712"},
			{"255.255.255.255:4713", v4, "127.0.0.1:4713"},
			{"198.51.100.255:4714", v4, "127.0.0.1:4714"},
			{"10.77.0.99:4721", v4, "127.0.0.1:4721"},
			{"10.77.0.255:4722", v4, "127.0.0.1:4722"}, // the kernel's own, besides the configured one
			{"10.78.0.9:4723", v4, "127.0.0.1:4723"},
			{"10.78.0.10:4724", v4, "127.0.0.1:4724"},
			{"127.0.0.1:4715", v4, "127.0.0.1:4715"},
			{"[::]:4716", v6, "[::1]:4716"},
			{"[::1]:4717", v6, "[::1]:4717"},
		} {
			source := ap(tt.source)
			connectFrom(t, source, tt.backend.addr)
			if got := tt.backend.seen(); got != ap(tt.want) {
				t.Errorf("bound to %v the backend saw %v, want %v", source, got, tt.want)
			}
			if got := p.Choose(source, tt.backend.addr); got.Rejection != transparent.SourceDenied {
				t.Errorf("Choose(%v, %v) = %+v, want it denied", source, tt.backend.addr, got)
			}
		}
	})
}

// with runs f on a thread with these capabilities only.
func with(t *testing.T, capabilities []int, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		defer close(done)      // even if f ends the goroutine
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		var data [2]unix.CapUserData
		for _, c := range capabilities {
			data[c/32].Effective |= 1 << (c % 32)
			data[c/32].Permitted |= 1 << (c % 32)
		}
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
		if err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(os.NewSyscallError("capset", err))
	}
}

// lo:  backends 127.0.0.1:25, [::1]:25
func TestCapabilities(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		v4, v6 := listen(t, "127.0.0.1:25"), listen(t, "[::1]:25")
		bind := func(source netip.AddrPort) syscall.Errno {
			return transparent.Bind(transparent.System{}, newClient(t, source).fd, source)
		}
		marks := []int{unix.CAP_NET_RAW}
		if !sandbox.PermitsMarks(sandbox.NetRaw) { // before Linux 5.17
			marks = append(marks, unix.CAP_NET_ADMIN)
		}
		with(t, marks, func() {
			if err := transparent.Check(true); err != nil {
				t.Errorf("Check with %v alone: %v", marks, err)
			}
			if err := transparent.CheckMark(); err != nil {
				t.Errorf("CheckMark with %v alone: %v", marks, err)
			}
		})
		with(t, []int{unix.CAP_NET_RAW}, func() {
			if err := transparent.Check(false); err != nil {
				t.Errorf("Check with CAP_NET_RAW alone: %v", err)
			}
			connectFrom(t, ap("203.0.113.9:4711"), v4.addr)
			connectFrom(t, ap("[2001:db8::9]:4711"), v6.addr)
			for _, s := range []string{"203.0.113.9:80", "[2001:db8::9]:80"} {
				if errno := bind(ap(s)); errno != syscall.EACCES || !transparent.RetryBind(errno) {
					t.Errorf("bind to %s with CAP_NET_RAW alone: %v, want %v, with a retry", s, errno, syscall.EACCES)
				}
			}
		})
		with(t, []int{unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}, func() {
			if errno := bind(ap("203.0.113.9:80")); errno != 0 {
				t.Errorf("bind to port 80 with CAP_NET_BIND_SERVICE: %v", errno)
			}
		})
		with(t, nil, func() {
			for _, s := range []string{"203.0.113.9:4711", "[2001:db8::9]:4711", "203.0.113.9:0"} {
				if errno := bind(ap(s)); errno != syscall.EPERM {
					t.Errorf("bind to %s without capabilities: %v, want %v", s, errno, syscall.EPERM)
				}
			}
			if err := transparent.CheckMark(); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "SO_MARK") {
				t.Errorf("CheckMark without capabilities: %v", err)
			}
			err := transparent.Check(false)
			option, ok := errors.AsType[*transparent.OptionError](err)
			if !ok || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
				t.Fatalf("Check without capabilities: %v, want an OptionError that names CAP_NET_RAW", err)
			}
			for _, way := range []string{"AmbientCapabilities=CAP_NET_RAW", "--cap-add NET_RAW", "setcap", "no_new_privs"} {
				if !strings.Contains(option.Hint(), way) {
					t.Errorf("hint %q does not mention %s", option.Hint(), way)
				}
			}
		})
	})
}

// giveUpAfterOneSYN makes connect(2) fail after a second instead of minutes.
func (c client) giveUpAfterOneSYN() {
	c.t.Helper()
	err := unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 500)
	if err != nil {
		c.t.Fatal(os.NewSyscallError("setsockopt", err))
	}
}
