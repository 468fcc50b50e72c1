package integration_test

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// On SIGTERM the listener closes, connections finish, and the gateway exits with 0:
//
//	conn ──header──▶ gateway :2000 ◀── SIGTERM
//	                    └──▶ behind :3000
func TestDrain(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t)
		g.Signal(syscall.SIGTERM)
		await.Until(t, "the listener is closed", func() bool { return refuses("127.0.0.1:2000") })
		write(t, conn, []byte("still here"))
		wantRead(t, behind, "still here")
		write(t, behind, []byte("so am I"))
		wantRead(t, conn, "so am I")
		conn.Close()
		wantClosed(t, behind)
		behind.Close()
		g.ConnectionOf(t, client4.String()).Expect(t, "outcome", "ok", "phase", "relay")
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

// refuses reports whether connections to the address are refused. It closes those that
// are accepted.
func refuses(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err == nil {
		conn.Close()
	}
	return err != nil
}

// Connections that outlast the drain are cut, and the exit code is 0:
//
//	conn ──header──▶ gateway :2000, --drain-timeout 200ms ◀── SIGTERM
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t, "--drain-timeout", "200ms")
		g.Signal(syscall.SIGTERM)
		wantReset(t, conn)
		wantReset(t, behind)
		g.NextConnection(t).Expect(t, "outcome", "drained", "phase", "relay", "by", "gateway", "client", client4.String())
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

// A second signal ends the drain at once:
//
//	conn ──header──▶ gateway :2000 ◀── SIGTERM, SIGINT
func TestSecondSignalEndsDrain(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, _ := session(t, "--drain-timeout", "1h")
		g.Signal(syscall.SIGTERM)
		await.Until(t, "the listener is closed", func() bool { return refuses("127.0.0.1:2000") })
		g.Signal(syscall.SIGINT)
		wantReset(t, conn)
		g.ConnectionOf(t, client4.String()).Expect(t, "outcome", "drained", "phase", "relay")
		g.Wait(t)
	})
}

// During --drain-delay, in which load balancers notice, new connections are served as
// before:
//
//	peer ──header──▶ gateway :2000, --drain-delay 1h; :2001, --drain-delay 200ms ◀── SIGTERM
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "redis-server")
		lab.Redis(t, "127.0.0.1:3000")
		long := plainGateway(t, "--drain-delay", "1h")
		short := lab.StartGateway(t, "--forward", "127.0.0.1:2001=127.0.0.1:3000", "--trust", "127.0.0.1",
			"--drain-delay", "200ms")
		for _, g := range []*lab.Gateway{long, short} {
			g.Signal(syscall.SIGTERM)
			g.WaitLine(t, "drain")
		}
		await.Until(t, "the listener is closed", func() bool { return refuses("127.0.0.1:2001") })
		redisCarries(t, lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4)), 100)
	})
}

// Under load no accepted connection is lost. During the delay all are served although
// /readyz answers 503; after it they are refused, never reset. Five gateways in a row:
//
//	8 × (conn ──header, request──▶ gateway :2000, --drain-delay ◀── SIGTERM)
//	                                  └──▶ echo :3000
func TestDrainUnderLoad(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		delay := 300 * time.Millisecond
		for gateways := 0; gateways < 5; {
			if drainUnderLoad(t, delay) {
				gateways++
				continue
			}
			if delay *= 2; delay > await.Patience { // a busy machine serves too few in a short delay
				t.Fatalf("no connections were served in a delay of %v", delay/2)
			}
		}
	})
}

// drainUnderLoad drains one gateway under load, and reports whether it was seen
// to be not ready and to serve connections all the same.
func drainUnderLoad(t *testing.T, delay time.Duration) (served bool) {
	t.Helper()
	g := plainGateway(t, "--drain-delay", delay.String(),
		"--admin", adminAt, "--access-log", "off", "--log-level", "info")
	load := startLoad(t, 8, echoes(t, "127.0.0.1:2000"))
	load.goesOn()
	g.Signal(syscall.SIGTERM)
	var status string
	await.Until(t, "the gateway is not ready", func() bool { status = readyz(adminAt); return status != "200 OK" })
	notReady := load.served.Load()
	await.Until(t, "the listener is closed", func() bool { return refuses("127.0.0.1:2000") })
	refused := load.end()
	for _, err := range refused {
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("a connection failed with %v, want it refused", err)
		}
	}
	t.Logf("%d served while not ready, %d refused", load.served.Load()-notReady, len(refused))
	if code := g.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	return status == "503 Service Unavailable" && load.served.Load() > notReady+50
}
