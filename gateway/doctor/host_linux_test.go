package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
	"unproxy/integration_test/await"
	"unproxy/integration_test/netns"
	"unproxy/transparent"
)

// server is a backend that records the connections that it accepts.
type server struct {
	t        *testing.T
	address  string
	accepted chan string
}

func serverOn(t *testing.T, address string) server {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := server{t, address, make(chan string, 64)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return s
}

// count returns how many connections the server has accepted. It makes a last
// connection, which comes after all others in the queue.
func (s server) count() int {
	s.t.Helper()
	last, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	last.Close()
	for n := 0; ; n++ {
		if <-s.accepted == last.LocalAddr().String() {
			return n
		}
	}
}

// lo:  servers on 127.0.0.1:25 and [::1]:25; first without a return path, then with one
func TestConnect(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		h := This()
		serverOn(t, "127.0.0.1:25")
		serverOn(t, "[::1]:25")
		try := func(to string, from netip.AddrPort, mark uint32, want answer) answer {
			t.Helper()
			enough := await.Patience
			if want == silent {
				enough = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(context.Background(), enough)
			defer cancel()
			local, err := h.Connect(ctx, Attempt{To: ap(to), From: from, Mark: mark})
			if from.IsValid() && err == nil && local != from {
				t.Errorf("connection to %s came from %v, want %v", to, local, from)
			}
			return answerOf(err)
		}
		plain := netip.AddrPort{}
		for _, tt := range []struct {
			to   string
			from netip.AddrPort
			mark uint32
			want answer
		}{
			{to: "127.0.0.1:25", from: plain, want: answered},
			{to: "[::1]:25", from: plain, mark: 7, want: answered},
			{to: "127.0.0.1:26", from: plain, want: refused},
			{to: "[::1]:26", from: plain, want: refused},
			{to: "198.51.100.1:25", from: plain, want: unreachable},
			{to: "[2001:db8::1]:25", from: plain, want: unreachable},
			{to: "127.0.0.1:25", from: transparent.TestClient(false), want: silent},
			{to: "[::1]:25", from: transparent.TestClient(true), want: silent},
			{to: "127.0.0.1:26", from: transparent.TestClient(false), want: silent}, // the RST is lost, too
		} {
			if got := try(tt.to, tt.from, tt.mark, tt.want); got != tt.want {
				t.Errorf("without a return path, to %s from %v: %d, want %d", tt.to, tt.from, got, tt.want)
			}
		}
		addReturnPath(t)
		for _, to := range []string{"127.0.0.1:25", "[::1]:25"} {
			if got := try(to, transparent.TestClient(ap(to).Addr().Is6()), 0, answered); got != answered {
				t.Errorf("with a return path, to %s: %d, want it answered", to, got)
			}
		}
		if got := try("127.0.0.1:26", transparent.TestClient(false), 0, refused); got != refused {
			t.Errorf("with a return path, to a closed port: %d, want it refused", got)
		}
	})
}

// Servers do not see the tests, because the kernel delays the last ACK by up to 200 ms
// (TCP_DELACK_MAX). If this process is stopped for longer, they see the connection, so
// the test only requires that they do not see all of them.
//
// lo:  servers on 127.0.0.1:25 and [::1]:25
func TestConnectIsNotSeen(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		addReturnPath(t)
		for _, address := range []string{"127.0.0.1:25", "[::1]:25"} {
			s := serverOn(t, address)
			const times = 10
			for i := range times {
				from := transparent.TestClient(ap(address).Addr().Is6())
				if i%2 == 0 {
					from = netip.AddrPort{}
				}
				if _, err := This().Connect(t.Context(), Attempt{To: ap(address), From: from}); err != nil {
					t.Fatal(err)
				}
			}
			if n := s.count(); n == times {
				t.Errorf("the server on %s saw all of %d tests", address, n)
			}
		}
	})
}

// Bind fails if and only if the gateway could not listen.
func TestBind(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		serverOn(t, "127.0.0.1:25")
		serverOn(t, "[::1]:26")
		h := This()
		for _, tt := range []struct {
			at   string
			dual bool
			want error
		}{
			{"127.0.0.1:25", false, syscall.EADDRINUSE},
			{"0.0.0.0:25", false, syscall.EADDRINUSE},
			{"[::]:25", true, syscall.EADDRINUSE},
			{"[::]:25", false, nil},
			{"[::]:26", false, syscall.EADDRINUSE},
			{"127.0.0.2:25", false, nil},
			{"127.0.0.1:27", false, nil},
			{"192.0.2.1:25", false, syscall.EADDRNOTAVAIL},
			{"[2001:db8::1]:25", false, syscall.EADDRNOTAVAIL},
		} {
			if err := h.Bind(ap(tt.at), tt.dual); !errors.Is(err, tt.want) {
				t.Errorf("bind %s (both families: %v): %v, want %v", tt.at, tt.dual, err, tt.want)
			}
		}
		taken, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 27})
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		if err := h.BindUDP(ap("127.0.0.1:27"), false); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("bind a UDP address in use: %v", err)
		}
		if err := errors.Join(h.BindUDP(ap("127.0.0.1:25"), false), h.BindUDP(ap("[::]:28"), true)); err != nil {
			t.Errorf("bind free UDP addresses: %v", err)
		}
		if !slices.ContainsFunc(h.sockets(true), func(s socket) bool { return s.at == ap("127.0.0.1:27") }) {
			t.Errorf("UDP sockets: %v", h.sockets(true))
		}
		if !h.listens(ap("127.0.0.1:25")) || h.listens(ap("127.0.0.1:27")) {
			t.Errorf("listening sockets: %v", h.sockets(false))
		}
	})
}

// Connect does not count a connection to itself as an answer, even if the ephemeral
// range is small.
func TestConnectToItselfIsRefused(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45004 45004")
		for _, to := range []string{"127.0.0.1:45004", "[::1]:45004"} {
			if !connectsToItself(t, ap(to)) {
				t.Fatal("the control: the kernel does not connect to itself")
			}
			if _, err := This().Connect(t.Context(), Attempt{To: ap(to)}); answerOf(err) != refused {
				t.Errorf("connect to %s, where nothing listens: %v", to, err)
			}
			if err := This().Bind(ap(to), false); err != nil {
				t.Errorf("the server cannot start afterwards: %v", err)
			}
		}
	})
}

// connectsToItself reports whether a plain connect(2) succeeds.
func connectsToItself(t *testing.T, to netip.AddrPort) bool {
	t.Helper()
	k, family := kernel.System(), unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, errno := k.Socket(family)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer k.Reset(fd)
	if errno := k.Connect(fd, to); errno != 0 && errno != unix.EINPROGRESS {
		t.Fatal(errno)
	}
	local, errno := k.LocalAddr(fd)
	return errno == 0 && kernel.IsSelf(local, to)
}

// Holder names the user of a port for which bind(2) fails: a connection of either
// family, open or in TIME_WAIT, or a UDP flow.
func TestHolderIsConnection(t *testing.T) {
	for _, tt := range []struct{ name, network, server, listener string }{
		{"IPv4", "tcp", "127.0.0.1:25", "127.0.0.1:45004"},
		{"IPv6", "tcp", "[::1]:25", "[::1]:45004"},
		{"IPv4 wildcard", "tcp", "127.0.0.1:25", "0.0.0.0:45004"},
		{"dual-stack", "tcp", "127.0.0.1:25", "[::]:45004"},
		{"UDP", "udp", "127.0.0.1:25", "127.0.0.1:45004"},
		{"UDP wildcard", "udp", "[::1]:25", "[::]:45004"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45004 45004")
				netns.Sysctl(t, "net.ipv4.ip_local_reserved_ports", "8080")
				h, listener, udp := This(), ap(tt.listener), tt.network == "udp"
				bind := h.BindUDP
				var server net.Listener
				if !udp {
					bind = h.Bind
					var err error
					if server, err = net.Listen("tcp", tt.server); err != nil {
						t.Fatal(err)
					}
					defer server.Close()
				}
				conn, err := net.Dial(tt.network, tt.server)
				if err != nil {
					t.Fatal(err)
				}
				if err := bind(listener, true); !errors.Is(err, syscall.EADDRINUSE) {
					t.Fatalf("the connection does not keep a listener from its port: %v", err)
				}
				holder := h.Holder(listener, udp)
				if !holder.Connection || !strings.Contains(holder.Text, conn.LocalAddr().String()+" to "+tt.server+" of ") ||
					holder.Hint[0] != "sysctl -w net.ipv4.ip_local_reserved_ports=8080,45004" {
					t.Errorf("held by %+v", holder)
				}
				if udp {
					conn.Close()
					return
				}
				accepted, err := server.Accept()
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()                  // first, so that this end is in TIME_WAIT
				io.Copy(io.Discard, accepted) // until the FIN
				accepted.Close()
				if !await.For(t, func() bool {
					return strings.Contains(h.Holder(listener, false).Text, "which has ended")
				}) {
					t.Errorf("in TIME_WAIT held by %+v", h.Holder(listener, false))
				}
			})
		})
	}
}

// Holder names the listening program rather than a connection that it accepted.
func TestHolderIsProgram(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		serverOn(t, "127.0.0.1:45004")
		conn, err := net.Dial("tcp", "127.0.0.1:45004")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, at := range []string{"127.0.0.1:45004", "0.0.0.0:45004", "[::]:45004"} {
			holder := This().Holder(ap(at), false)
			if holder.Connection || !strings.HasSuffix(holder.Text, "listens on 127.0.0.1:45004") {
				t.Errorf("%s is held by %+v", at, holder)
			}
		}
		if holder := This().Holder(ap("127.0.0.1:45005"), false); holder.Text != "" {
			t.Errorf("a free port is held by %+v", holder)
		}
	})
}

// HolderOfPath names the program that listens on a unix socket, of either kind, and a file
// that is none. It is silent about a socket that nothing listens on: that is replaced.
func TestHolderOfPath(t *testing.T) {
	dir := t.TempDir()
	abstract := fmt.Sprintf("@unproxy-holder-%d", os.Getpid())
	for _, path := range []string{dir + "/open", abstract} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want := fmt.Sprintf("(process %d) listens on unix:%s", os.Getpid(), path)
		if got := This().HolderOfPath(path); !strings.HasSuffix(got.Text, want) || got.Connection {
			t.Errorf("%s is held by %+v, want %q", path, got, want)
		}
	}
	stale, err := net.Listen("unix", dir+"/stale")
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"stale": "", "none": "", "file": dir + "/file exists and is not a socket"} {
		if got := This().HolderOfPath(dir + "/" + name); got.Text != want {
			t.Errorf("%s is held by %+v, want %q", name, got, want)
		}
	}
}

// listens reports whether a socket listens on an address, according to /proc.
func (h Host) listens(a netip.AddrPort) bool {
	for _, s := range h.sockets(false) {
		if s.receives(a) {
			return true
		}
	}
	return false
}

// The owner of a socket of this process is this process.
func TestOwners(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := This()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	for _, s := range h.sockets(false) {
		if s.at == at {
			if p := h.owners()[s.inode]; !h.isGateway(p) {
				t.Errorf("%v belongs to %+v, want %s", at, p, h.Executable)
			}
			return
		}
	}
	t.Errorf("%v is missing in %v", at, h.sockets(false))
}

func TestParseSocket(t *testing.T) {
	const tail = " 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0000000000000000 100 0 0 10 0\n"
	for _, tt := range []struct{ line, want string }{
		{"  0: 0100007F:0016 00000000:0000" + tail, "127.0.0.1:22"},
		{"  0: 00000000000000000000000001000000:0019 00000000000000000000000000000000:0000" + tail, "[::1]:25"},
		{"  0: 0000000000000000FFFF00000100007F:0019 00000000000000000000000000000000:0000" + tail, "127.0.0.1:25"},
		{"  0: B80D0120000000000000000009000000:FFFF 00000000000000000000000000000000:0000" + tail, "[2001:db8::9]:65535"},
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", ""},
		{"  0: 0100007F:0016 0100007F:9C40 01 0:0 0:0 0 0 0 1234 1", ""},
		{"  0: 0100007:0016 00000000:0000" + tail, ""},
		{"", ""},
	} {
		s, ok := parseSocket(tt.line, listensTCP)
		if got := s.at.String(); ok != (tt.want != "") || ok && (got != tt.want || s.inode != "1234") {
			t.Errorf("parseSocket(%q) = %v, %v; want %q", tt.line, s, ok, tt.want)
		}
	}
}

func TestAnswerOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want answer
	}{
		{nil, answered},
		{context.DeadlineExceeded, silent},
		{os.NewSyscallError("connect", unix.ETIMEDOUT), silent},
		{&net.OpError{Err: os.NewSyscallError("connect", unix.ECONNREFUSED)}, refused},
		{unix.ECONNRESET, refused},
		{unix.ENETUNREACH, unreachable},
		{unix.EHOSTUNREACH, unreachable},
		{unix.EAFNOSUPPORT, unreachable},
		{unix.EPERM, forbidden},
		{unix.EACCES, forbidden},
		{unix.EMFILE, failed},
		{context.Canceled, failed},
	} {
		if got := answerOf(tt.err); got != tt.want {
			t.Errorf("answerOf(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

// addReturnPath makes the answers of servers on 127.0.0.1 and ::1 return to this host.
func addReturnPath(t *testing.T) {
	t.Helper()
	netns.IP(t, "route add local default dev lo table 7700")
	netns.IP(t, "-6 route add local default dev lo table 7700")
	netns.IP(t, "rule add from 127.0.0.1 lookup 7700")
	netns.IP(t, "-6 rule add from ::1 lookup 7700")
}
