package integration_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// Five thousand concurrent sessions use two descriptors and little memory each:
//
//	5000 × conn ──header──▶ gateway :2000 ──▶ echo :3000
func TestConnectionsCostTwoDescriptorsAndLittleMemory(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const sessions = 5000
		needDescriptors(t, 2*sessions+100)
		lab.Echo(t, "127.0.0.1:3000")
		// The race detector needs memory of its own.
		g := lab.StartGatewayAs(t, lab.Command{Name: lab.PlainBinary(t)}, "--forward", "127.0.0.1:2000=127.0.0.1:3000",
			"--trust", "127.0.0.1")
		conns := make([]net.Conn, 0, sessions)
		open := func(n int) {
			for range n {
				conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("hello"))
				conn.SetDeadline(await.Deadline(t))
				wantRead(t, conn, "hello")
				conns = append(conns, conn)
			}
		}
		open(100) // allocates the buffers of the gateway and of the runtime
		memory, descriptors := residentMemory(t, g.PID()), openDescriptors(t, g.PID())
		open(sessions - 100)
		perMemory := float64(residentMemory(t, g.PID())-memory) / (sessions - 100)
		perDescriptors := float64(openDescriptors(t, g.PID())-descriptors) / (sessions - 100)
		t.Logf("%d sessions: %.0f bytes of memory and %.2f descriptors for each", sessions, perMemory, perDescriptors)
		if perDescriptors > 2 {
			t.Errorf("%.2f descriptors for each session, want 2", perDescriptors)
		}
		if perMemory > 1024 {
			t.Errorf("%.0f bytes of memory for each session, want at most 1024", perMemory)
		}
		for _, conn := range conns {
			write(t, conn, []byte("again"))
			wantRead(t, conn, "again")
			conn.Close()
		}
		await.Until(t, "the descriptors are closed", func() bool { return openDescriptors(t, g.PID()) < 100 })
	})
}

// needDescriptors skips the test where a process cannot have n descriptors.
func needDescriptors(t *testing.T, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < n {
		t.Skipf("a process can have %d descriptors here, the test needs %d", limit.Max, n)
	}
}

// residentMemory returns the resident memory of a process in bytes.
func residentMemory(t *testing.T, pid int) int {
	t.Helper()
	return firstNumber(t, fmt.Sprintf("/proc/%d/status", pid), `(?m)^VmRSS:\s+(\d+) kB$`) << 10
}

func openDescriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// When file descriptors run out, the gateway logs it, established sessions continue,
// and it accepts again when some are free:
//
//	12 × conn ──header──▶ gateway :2000, room for 3 sessions ──▶ echo :3000
func TestDescriptorsExhausted(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		g := plainGateway(t,
			"--max-connections", "1000", "--connect-timeout", "1s")
		first := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("first"))
		wantRead(t, first, "first")

		limit := uint64(openDescriptors(t, g.PID()) + 5)
		if err := unix.Prlimit(g.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil {
			t.Fatal(err)
		}
		var conns []net.Conn
		for range 12 {
			conns = append(conns, lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("more")))
		}
		g.WaitLine(t, `"accept_paused"`)
		write(t, first, []byte("still here"))
		wantRead(t, first, "still here")

		// Each is served after others have ended, or rejected for lack of a
		// descriptor for its backend.
		for _, conn := range conns {
			go func() {
				io.ReadFull(conn, make([]byte, len("more")))
				conn.Close()
			}()
		}
		for range conns {
			wantMatch(t, g.NextConnection(t), "outcome", "^(ok|limit)$")
		}
		last := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("last"))
		wantRead(t, last, "last")
		g.WaitLine(t, `"accept_resumed"`)
		write(t, first, []byte("still here"))
		wantRead(t, first, "still here")
	})
}

// At --max-connections the next connection waits in the kernel's accept queue:
//
//	3 × conn ──header──▶ gateway :2000, --max-connections 2 ──▶ backend :3000
func TestMaxConnections(t *testing.T) {
	for name, flags := range map[string][]string{
		"of the gateway": {"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--max-connections", "2"},
		"of the forward": {"--forward", "127.0.0.1:2000=127.0.0.1:3000?max-connections=2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				backend := lab.Listen(t, "127.0.0.1:3000")
				g := lab.StartGateway(t, append([]string{"--trust", "127.0.0.1"}, flags...)...)
				var conns, behind []*net.TCPConn
				for range 2 {
					conns = append(conns, lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4)))
					behind = append(behind, backend.Next(t))
				}
				third := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("patient"))
				for range 100 {
					write(t, conns[0], []byte("busy"))
					wantRead(t, behind[0], "busy")
				}
				if n := backend.Accepted(); n != 2 {
					t.Fatalf("%d connections to the backend, want 2", n)
				}
				conns[1].Close()
				behind[1].Close()
				g.NextConnection(t).Expect(t, "outcome", "ok")
				last := backend.Next(t)
				wantRead(t, last, "patient")
				third.Close()
				last.Close()
				g.NextConnection(t).Expect(t, "outcome", "ok")
			})
		})
	}
}

// At --max-connections-per-client the next connection of that client is reset. Other
// clients are not affected:
//
//	192.0.2.9 × 2 ──▶ gateway :2000, --max-connections-per-client 1 ──▶ backend :3000
//	192.0.2.10    ──▶
func TestMaxConnectionsPerClient(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--max-connections-per-client", "1")
		header := func(client string) []byte { return lab.V2(netip.MustParseAddrPort(client), dest4) }
		first := lab.Send(t, "127.0.0.1:2000", header("192.0.2.9:1"))
		backend.Next(t)

		wantReset(t, lab.Send(t, "127.0.0.1:2000", header("192.0.2.9:2")))
		g.NextConnection(t).Expect(t, "outcome", "limit", "by", "gateway", "client", "192.0.2.9:2")

		other := lab.Send(t, "127.0.0.1:2000", header("192.0.2.10:1"))
		backend.Next(t)
		reset(t, first)
		g.NextConnection(t).Expect(t, "outcome", "reset", "client", "192.0.2.9:1")
		again := lab.Send(t, "127.0.0.1:2000", header("192.0.2.9:3"), []byte("again"))
		wantRead(t, backend.Next(t), "again")
		other.Close()
		again.Close()
	})
}

// At --max-waiting a new connection replaces the oldest one without a header.
// Established sessions are not affected:
//
//	conn ──header──▶ gateway :2000, --max-waiting 4 ──▶ echo :3000
//	20 × conn, silent ──▶
func TestMaxWaiting(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		g := plainGateway(t, "--loops", "1",
			"--max-waiting", "4", "--max-connections", "10", "--header-timeout", "0")
		first := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("first"))
		wantRead(t, first, "first")
		var silent []*net.TCPConn
		for range 20 {
			silent = append(silent, lab.Dial(t, "127.0.0.1:2000"))
			conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("served"))
			wantRead(t, conn, "served")
			reset(t, conn)
		}
		for _, conn := range silent[:16] {
			wantReset(t, conn)
		}
		for { // the log omits lines when there are many of a kind
			line := g.NextConnection(t)
			if line.String("outcome") == "limit" {
				line.Expect(t, "phase", "header", "by", "gateway")
				wantMatch(t, line, "reason", "^too many connections wait for their header")
				break
			}
		}
		write(t, silent[19], append(lab.V2(client4, dest4), "late"...))
		wantRead(t, silent[19], "late")
		write(t, first, []byte("still here"))
		wantRead(t, first, "still here")
	})
}

// A peer that exceeds its rate of connections is reset. Other peers and its established
// sessions are not affected:
//
//	127.0.0.1 × 5 ──header──▶ gateway :2000, --accept-rate 1/3 ──▶ echo :3000
//	127.0.0.2     ──header──▶
func TestAcceptRate(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.0/8",
			"--accept-rate", "1/3")
		header := lab.V2(client4, dest4)
		first := lab.Send(t, "127.0.0.1:2000", header, []byte("first"))
		wantRead(t, first, "first")
		await.Until(t, "a connection is rejected", func() bool {
			conn, err := net.Dial("tcp", "127.0.0.1:2000")
			if err != nil {
				return errors.Is(err, syscall.ECONNRESET) // the reset can arrive before connect(2) returns
			}
			defer conn.Close()
			conn.SetDeadline(await.Deadline(t))
			conn.Write(append(header, 'x'))
			_, err = io.ReadFull(conn, make([]byte, 1))
			return err != nil
		})
		line := g.NextConnection(t)
		for line.String("outcome") == "ok" {
			line = g.NextConnection(t)
		}
		line.Expect(t, "outcome", "limit", "phase", "trust", "by", "gateway")
		wantMatch(t, line, "reason", "accept-rate")
		other := dialFrom(t, "127.0.0.2", "127.0.0.1:2000")
		write(t, other, append(header, "other"...))
		wantRead(t, other, "other")
		write(t, first, []byte("still here"))
		wantRead(t, first, "still here")
	})
}

// If no source port is left towards a backend, the next backend is tried, and without one it is a
// limit. Other backends are not concerned:
//
//	conn ──header──▶ gateway :2000, two source ports ──▶ [127.0.0.1|::1]:3000
//	                                                 ──▶ :3001
func TestNoSourcePortIsLeft(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		t.Run(host, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				first, second := lab.Listen(t, host+":3000"), lab.Listen(t, host+":3001")
				g := lab.StartGateway(t, "--trust", "127.0.0.1", "--header-timeout", "0",
					"--forward", fmt.Sprintf("127.0.0.1:2000=%s:3000", host),
					"--forward", fmt.Sprintf("127.0.0.1:2001=%[1]s:3000,%[1]s:3001", host))
				var conns []*net.TCPConn // they have their ports before there are few
				for _, to := range []string{"127.0.0.1:2000", "127.0.0.1:2000", "127.0.0.1:2000", "127.0.0.1:2001"} {
					conns = append(conns, lab.Dial(t, to))
				}
				netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45001")
				for _, conn := range conns[:2] {
					write(t, conn, lab.V2(client4, dest4))
					first.Next(t)
				}
				write(t, conns[2], lab.V2(client4, dest4))
				wantReset(t, conns[2])
				line := g.NextConnection(t)
				line.Expect(t, "outcome", "limit", "phase", "dial", "by", "gateway")
				wantMatch(t, line, "reason", "^no source port is left towards the backend")
				write(t, conns[3], lab.V2(client4, dest4))
				second.Next(t)
			})
		})
	}
}
