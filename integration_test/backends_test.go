package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// A connection whose backend is unavailable ends, and the log says why:
//
//	peer ──header──▶ gateway ──▶ :3001, no listener
//	                         ──▶ 192.0.2.1, no route
//	                         ──▶ :3002, a full backlog: no answer
//	                         ──▶ nowhere.invalid, no such name
func TestUnreachableBackendIsNamedInTheLog(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		fullBacklog(t, 3002)
		tests := []struct{ backend, outcome, by string }{
			{"127.0.0.1:3001", "backend_refused", "backend"},
			{"192.0.2.1:3000", "backend_unreachable", "gateway"},
			{"127.0.0.1:3002", "connect_timeout", "timeout"},
			{"nowhere.invalid:3000", "backend_unreachable", "gateway"},
			{"unix:/nonexistent/socket", "backend_unreachable", "gateway"},
		}
		for _, test := range tests {
			t.Run(test.backend, func(t *testing.T) {
				g := lab.StartGateway(t, "--forward", "127.0.0.1:0="+test.backend, "--trust", "127.0.0.1",
					"--connect-timeout", "2s")
				conn := lab.Send(t, g.Address(t, 0), lab.V2(client4, dest4))
				wantReset(t, conn)
				g.NextConnection(t).Expect(t, "outcome", test.outcome, "phase", "dial", "by", test.by, "client", client4.String())
			})
		}
	})
}

// fullBacklog listens on a port of 127.0.0.1 with a full accept queue: the kernel drops
// further SYNs (tcp_conn_request in net/ipv4/tcp_input.c).
func fullBacklog(t *testing.T, port int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	lab.Dial(t, fmt.Sprintf("127.0.0.1:%d", port)) // a queue of length 0 holds one
}

// With several backends, the first one that answers is used:
//
//	peer ──header──▶ gateway :2000 ──✗ :3001, no listener
//	                               ──✗ :3002, no listener
//	                               ──▶ :3000 redis
func TestFirstReachableBackendServes(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "redis-server")
		lab.Redis(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3001,[::1]:3002,127.0.0.1:3000",
			"--trust", "127.0.0.1")
		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		redisCarries(t, conn, 100)
		conn.Close()
		g.NextConnection(t).Expect(t, "outcome", "ok", "backend", "127.0.0.1:3000")
	})
}

// A backend can be a name. Any of its addresses can serve:
//
//	peer ──header──▶ gateway :2000 ──▶ backend.test = 127.0.0.5, ::1
//	                                    only [::1]:3000 listens
func TestBackendName(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		hosts := lab.WriteFile(t, "hosts", "127.0.0.5 backend.test\n::1 backend.test\n127.0.0.1 localhost\n")
		if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		six, four := lab.Listen(t, "[::1]:3000"), lab.Listen(t, "127.0.0.1:3001")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=backend.test:3000",
			"--forward", "127.0.0.1:2001=localhost:3001", "--trust", "127.0.0.1")
		for _, c := range []struct {
			address string
			backend *lab.Backend
		}{{"127.0.0.1:2000", six}, {"127.0.0.1:2001", four}} {
			conn := lab.Send(t, c.address, lab.V2(client4, dest4), []byte("hello"))
			behind := c.backend.Next(t)
			wantRead(t, behind, "hello")
			conn.Close()
			behind.Close()
			g.NextConnection(t).Expect(t, "outcome", "ok", "backend", c.backend.Addr)
		}
	})
}

// Both ends can be unix sockets. Every process that can open the listening one is
// trusted:
//
//	client 127.0.0.9 ──▶ haproxy :1000 ──v2──▶ gateway unix:in ──▶ redis unix:out
func TestUnixSockets(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy", "redis-server")
		in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
		lab.Redis(t, "127.0.0.1:3000", "--unixsocket", out)
		g := lab.StartGateway(t, "--forward", "unix:"+in+"=unix:"+out, "--trust", "192.0.2.1")
		lab.HAProxy(t, haproxyPreamble+"listen in\n  bind 127.0.0.1:1000\n  server s unix@"+in+" send-proxy-v2\n",
			"127.0.0.1:1000")
		conn := dialFrom(t, "127.0.0.9", "127.0.0.1:1000")
		redisCarries(t, conn, 1<<20)
		conn.Close()
		g.NextConnection(t).Expect(t, "outcome", "ok", "client", conn.LocalAddr().String(),
			"destination", "127.0.0.1:1000", "backend", "unix:"+out, "peer", "unix")
	})
}

// A port range maps one to one to a range of the same size:
//
//	peer ──header──▶ gateway :2000-2002 ──▶ :3000, :3001, :3002
func TestPortRange(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		var backends []*lab.Backend
		for port := range 3 {
			backends = append(backends, lab.Listen(t, fmt.Sprintf("127.0.0.1:%d", 3000+port)))
		}
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000-2002=127.0.0.1:3000-3002", "--trust", "127.0.0.1")
		for port, backend := range backends {
			address := fmt.Sprintf("127.0.0.1:%d", 2000+port)
			conn := lab.Send(t, address, lab.V2(client4, dest4), []byte(address))
			behind := backend.Next(t)
			wantRead(t, behind, address)
			conn.Close()
			behind.Close()
			g.NextConnection(t).Expect(t, "outcome", "ok", "backend", backend.Addr, "forward", address)
		}
	})
}

// A listener without a host accepts both families, and logs the plain address of an
// IPv4 peer:
//
//	127.0.0.9 ──▶ gateway :2000 ──▶ backend [::1]:3000
//	::1       ──▶
func TestDualStack(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "[::1]:3000")
		g := lab.StartGateway(t, "--forward", ":2000=[::1]:3000", "--trust", "127.0.0.9", "--trust", "::1")
		for _, path := range []struct{ source, address string }{{"127.0.0.9", "127.0.0.1:2000"}, {"::1", "[::1]:2000"}} {
			conn := dialFrom(t, path.source, path.address)
			mapped := netip.AddrPortFrom(netip.AddrFrom16(client4.Addr().As16()), client4.Port())
			header := lab.V2(mapped, dest6) // as HAProxy writes an IPv4 client of an IPv6 address
			write(t, conn, append(header, "hello"...))
			behind := backend.Next(t)
			wantRead(t, behind, "hello")
			conn.Close()
			behind.Close()
			g.NextConnection(t).Expect(t, "outcome", "ok", "peer", conn.LocalAddr().String(), "client", client4.String())
		}
	})
}

// The header can name the backend, within the allowed destinations:
//
//	peer ──header──▶ gateway :2000=header, --allow-destination 127.0.0.0/30 ──▶ nginx 127.0.0.2:3000
//	                                                                        ──✗ 127.0.0.4:3000
func TestBackendFromHeader(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx")
		content := webServer(t, 1000, "127.0.0.2:3000")
		denied := lab.Listen(t, "127.0.0.4:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=header", "--trust", "127.0.0.1",
			"--allow-destination", "127.0.0.0/30")
		to := func(address string) *net.TCPConn {
			return lab.Send(t, "127.0.0.1:2000", lab.V2(client4, netip.MustParseAddrPort(address)))
		}
		if body := fetch(t, func() net.Conn { return to("127.0.0.2:3000") }); !bytes.Equal(body, content) {
			t.Errorf("the file arrived as %d other bytes", len(body))
		}
		g.NextConnection(t).Expect(t, "outcome", "ok", "backend", "127.0.0.2:3000")

		wantReset(t, to(denied.Addr))
		g.NextConnection(t).Expect(t, "outcome", "destination_denied", "phase", "dial", "destination", denied.Addr)
		if n := denied.Accepted(); n != 0 {
			t.Errorf("%d connections to a backend that is not allowed", n)
		}

		wantReset(t, lab.Send(t, "127.0.0.1:2000", []byte("PROXY UNKNOWN\r\n")))
		g.NextConnection(t).Expect(t, "outcome", "no_address", "phase", "dial")
	})
}

// A backend that answers nothing costs one connection its share of the connect timeout; the following
// ones are served by the next backend at once. When it answers, it is first again:
//
//	peer ──header──▶ gateway :2000 ──✗ :3002 a full backlog, which answers nothing
//	                               ──▶ :3000
//	                         :2001 the same, with --backend-retry 0, the control
func TestSilentBackendIsTriedLast(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		fullBacklog(t, 3002)
		second := lab.Listen(t, "127.0.0.1:3000")
		backends := "=127.0.0.1:3002,127.0.0.1:3000"
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000"+backends, "--forward", "127.0.0.1:2001"+backends+"?backend-retry=0",
			"--trust", "127.0.0.1", "--connect-timeout", "1s", "--backend-retry", "1h")
		serve := func(address string) {
			t.Helper()
			conn := lab.Send(t, address, lab.V2(client4, dest4), []byte("hello"))
			behind := second.Next(t)
			wantRead(t, behind, "hello")
			conn.Close()
			behind.Close()
			g.NextConnection(t).Expect(t, "outcome", "ok", "backend", second.Addr)
		}
		for range 3 {
			serve("127.0.0.1:2000")
		}
		dials := overflows(t)
		serve("127.0.0.1:2000")
		if n := overflows(t) - dials; n != 0 {
			t.Errorf("the silent backend was dialled %d times more", n)
		}
		serve("127.0.0.1:2001")
		if n := overflows(t) - dials; n == 0 {
			t.Error("the control did not dial the silent backend")
		}
	})
}

// overflows returns how many SYNs the namespace has dropped because a backlog was full.
func overflows(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	names, values, ok := strings.Cut(string(text), "\n")
	values, _, _ = strings.Cut(values, "\n")
	i := slices.Index(strings.Fields(names), "ListenOverflows")
	if !ok || i < 0 {
		t.Fatalf("no ListenOverflows in %q", names)
	}
	n, err := strconv.Atoi(strings.Fields(values)[i])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A check finds out that a backend is down without any connection, and that it is up again, of
// each family. Until then the next backend is dialled first:
//
//	gateway ──check──▶ 127.0.0.1:3001, [::1]:3001
//	peer ──header──▶ gateway ──▶ :3000 of the same host while they are down
func TestBackendCheck(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, row := range []struct {
			host   string
			header []byte
		}{{"127.0.0.1", lab.V2(client4, dest4)}, {"[::1]", lab.V2(client6, dest6)}} {
			first, second := row.host+":3001", lab.Listen(t, row.host+":3000")
			g := lab.StartGateway(t, "--forward", "127.0.0.1:0="+first+","+second.Addr+"?backend-check=100ms",
				"--trust", "127.0.0.1", "--backend-retry", "0")
			serve := func(by *lab.Backend) {
				t.Helper()
				conn := lab.Send(t, g.Address(t, 0), row.header, []byte("hello"))
				for {
					behind := by.Next(t)
					b := make([]byte, 5)
					n, _ := io.ReadFull(behind, b)
					behind.Close()
					if n > 0 { // else it was a check
						break
					}
				}
				conn.Close()
				g.NextConnection(t).Expect(t, "outcome", "ok", "backend", by.Addr)
			}
			line := g.WaitLog(t, "backend down")
			line.Expect(t, "detail", first, "level", "warn")
			serve(second)
			one := lab.Listen(t, first)
			g.WaitLog(t, "backend up").Expect(t, "detail", first, "level", "info")
			serve(one)
		}
	})
}

// The process that takes over checks backends itself, and the one before it stops: each reports the
// backend once, and the new one that it is up.
func TestBackendCheckAfterUpgrade(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		l := startLine(t, lab.Command{}, "--forward", "127.0.0.1:2000=127.0.0.1:3001", "--trust", "127.0.0.1",
			"--backend-check", "100ms")
		count := func(message string) (n int) {
			for _, line := range l.Log() {
				if line.String("message") == message {
					n++
				}
			}
			return n
		}
		await.Until(t, "the first process reports the backend", func() bool { return count("backend down") == 1 })
		l.signal(syscall.SIGHUP)
		l.upgrade()
		await.Until(t, "the second process reports the backend", func() bool { return count("backend down") == 2 })
		lab.Listen(t, "127.0.0.1:3001")
		await.Until(t, "the second process reports that it is up", func() bool { return count("backend up") == 1 })
		if n := count("backend down"); n != 2 {
			t.Errorf("%d reports that the backend is down", n)
		}
	})
}

// A forward none of whose checked backends answers is not ready, and no other is
// concerned: not the one without the option, nor the one that has a second backend.
//
//	--forward :2001=:3001?backend-check   nothing listens: not ready until it does
//	--forward :2002=:3001,:3002?backend-check
//	--forward :2003=:3001
func TestReadinessFollowsBackends(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Listen(t, "127.0.0.1:3002")
		lab.StartGateway(t, "--trust", "127.0.0.1", "--admin", adminAt,
			"--forward", ":2001=127.0.0.1:3001?backend-check=100ms",
			"--forward", ":2002=127.0.0.1:3001,127.0.0.1:3002?backend-check=100ms",
			"--forward", ":2003=127.0.0.1:3001")
		want := func(when string, code int) {
			t.Helper()
			await.Until(t, when, func() bool { return readyzCode(t, "?forward=:2001") == code })
		}
		want("the forward without a backend is not ready", http.StatusServiceUnavailable)
		for _, query := range []string{"", "?forward=:2002", "?forward=:2003"} {
			if got := readyzCode(t, query); got != http.StatusOK {
				t.Errorf("/readyz%s: %d, want 200", query, got)
			}
		}
		lab.Listen(t, "127.0.0.1:3001")
		want("the forward with a backend is ready", http.StatusOK)
		if got := readyzCode(t, "?all=1"); got != http.StatusOK {
			t.Errorf("/readyz?all=1: %d, want 200", got)
		}
	})
}
