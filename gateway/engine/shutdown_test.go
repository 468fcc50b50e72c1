package engine

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
)

// Handshakes in progress when the listeners close are served. Shared sockets are closed at once.
func TestGracefulClose(t *testing.T) {
	k := newScript(t, 0)
	k.filters = true
	held := k.create(listening)
	kept := plainForward(serverB)
	kept.Listeners[0].Socket = &forward.Socket{FD: held.fd,
		Bound: forward.Endpoint{Addr: netip.MustParseAddrPort("192.0.2.80:82")}, Held: true}
	r := newRig(t, k, Config{Loops: 2, Forwards: []*forward.Forward{withSecondListener(plainForward(serverA)), kept}})
	front, side := r.listenerSocket(0), r.listenerSocket(1)
	r.engine.StopAccepting()
	r.settle()
	if !front.refusesHandshakes || !side.refusesHandshakes || held.refusesHandshakes || held.isOpen || !front.isOpen {
		t.Errorf("new handshakes are refused: %v, %v; of a held one %v, which is open: %v",
			front.refusesHandshakes, side.refusesHandshakes, held.refusesHandshakes, held.isOpen)
	}
	late := r.arrive(front, lb) // its handshake began before
	late.deliver([]byte(header))
	r.settle()
	r.advance(gracePeriod / 2)
	later := r.arrive(side, lb)
	r.advance(gracePeriod)
	later.deliver([]byte(header))
	r.settle()
	r.engine.running.Wait()
	if r.leaked(listening) != 0 || len(r.dials) != 2 || late.gotRST || later.gotRST || r.isIdle() {
		t.Errorf("%d listeners are open, %d were served", r.leaked(listening), len(r.dials))
	}
	r.resetOneBackend()
	r.resetOneBackend()
	if !r.isIdle() {
		t.Error("not idle after the last connection")
	}
	r.expectClean()
}

// Close does not wait for handshakes.
func TestCloseDuringGracePeriod(t *testing.T) {
	k := newScript(t, 0)
	k.filters = true
	r := newRig(t, k, Config{Forwards: []*forward.Forward{plainForward(serverA)}})
	r.engine.StopAccepting()
	r.settle()
	r.loop().closeListeners()
	r.engine.running.Wait()
	if r.leaked(listening) != 0 || !r.isIdle() || r.loop().wheel.count != 0 {
		t.Errorf("%d listeners are open, idle %v", r.leaked(listening), r.isIdle())
	}
}

// The real kernel: a new handshake is refused, while queued and established connections work as
// before. For both families, and dual-stack. TestDrainUnderLoad does it inside the sandbox.
func TestRealRefuseHandshakes(t *testing.T) {
	for at, host := range map[string]string{"127.0.0.1:0": "127.0.0.1", "[::1]:0": "::1", "[::]:0": "127.0.0.1"} {
		t.Run(at, func(t *testing.T) {
			if at != "127.0.0.1:0" {
				requireIPv6(t)
			}
			front := listen(t, "tcp", at)
			_, port, _ := net.SplitHostPort(front.Addr().String())
			address := net.JoinHostPort(host, port)
			established := dialTCP(t, address)
			inside := accept(t, front)
			queued := dialTCP(t, address)
			raw, err := front.(*net.TCPListener).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) {
				// The handshake is not complete until the client sends data (tcp(7)).
				if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 10); err != nil {
					t.Error(err)
				}
			})
			underWay := dialTCP(t, address)
			raw.Control(func(fd uintptr) {
				if errno := kernel.System().RefuseHandshakes(int(fd)); errno != 0 {
					t.Errorf("RefuseHandshakes: %v", errno)
				}
			})
			if _, err := net.DialTimeout("tcp", address, testTimeout); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("a new handshake: %v, want it refused", err)
			}
			for _, client := range []halfCloser{established, queued, underWay} {
				sendAll(t, client, []byte("question"))
				if inside == nil {
					inside = accept(t, front)
				}
				expectAll(t, inside, []byte("question"))
				sendAll(t, inside, []byte("answer"))
				expectAll(t, client, []byte("answer"))
				inside = nil
			}
			front.Close()
			if _, err := net.DialTimeout("tcp", address, testTimeout); err == nil {
				t.Error("a closed listener accepted a connection")
			}
		})
	}
}

func dialTCP(t *testing.T, address string) halfCloser {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, testTimeout)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(testTimeout))
	t.Cleanup(func() { c.Close() })
	return c.(halfCloser)
}

func TestRealGracefulClose(t *testing.T) {
	back, to := server(t)
	l := startReal(t, loopback(to))
	client := l.dial(0, header)
	backend := accept(t, back)
	l.StopAccepting()
	sendAll(t, client, []byte("goes on"))
	expectAll(t, backend, []byte("goes on"))
	client.Close()
	backend.Close()
	l.expectRecord(record.OK, record.Client)
	<-l.Idle()
}
