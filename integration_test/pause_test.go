package integration_test

import (
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// stopped runs during while the gateway is stopped, and at least so long.
func stopped(t *testing.T, g *lab.Gateway, least time.Duration, during func()) {
	t.Helper()
	g.Signal(syscall.SIGSTOP)
	until := time.Now().Add(least)
	during()
	await.Until(t, "the deadline has passed", func() bool { return time.Now().After(until) })
	g.Signal(syscall.SIGCONT)
}

// Connections whose header has arrived are served, however small the limit on waiting ones is and
// however many come at once, also through a unix socket and beside silent ones:
//
//	100 × conn ──header, payload──▶ gateway (stopped), --max-waiting 10 ──▶ echo :3000
func TestArrivedHeadersAreServed(t *testing.T) {
	t.Parallel()
	for _, loops := range []string{"1", "2"} {
		for _, silent := range []int{0, 15} {
			t.Run(fmt.Sprintf("%s loops, %d silent", loops, silent), func(t *testing.T) {
				netns.Run(t, func(t *testing.T) {
					lab.Echo(t, "127.0.0.1:3000")
					path := filepath.Join(t.TempDir(), "front")
					g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000",
						"--forward", "unix:"+path+"=127.0.0.1:3000", "--trust", "127.0.0.1", "--loops", loops,
						"--max-waiting", "10")
					var conns []net.Conn
					stopped(t, g, 0, func() {
						for range silent {
							lab.Dial(t, "127.0.0.1:2000")
						}
						for i := range 100 {
							conn := net.Conn(nil)
							if i%4 == 0 {
								conn = dialUnix(t, path)
							} else {
								conn = lab.Dial(t, "127.0.0.1:2000")
							}
							write(t, conn, append(lab.V2(client4, dest4), "payload"...))
							conns = append(conns, conn)
						}
					})
					for _, conn := range conns {
						wantRead(t, conn, "payload")
					}
				})
			})
		}
	}
}

// What arrives while the gateway is stopped counts before the deadlines that pass meanwhile: headers
// whole and in part, and data.
func TestArrivedDataCountsBeforeDeadlines(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const deadline = 500 * time.Millisecond
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000?header-timeout=500ms&idle-timeout=60s",
			"--forward", "127.0.0.1:2001=127.0.0.1:3000?idle-timeout=500ms",
			"--trust", "127.0.0.1", "--loops", "1")
		header := lab.V2(client4, dest4)
		var half, idle *net.TCPConn
		stopped(t, g, 2*deadline, func() { lab.Send(t, "127.0.0.1:2000", header) })
		backend.Next(t)
		g.Signal(syscall.SIGSTOP)
		half = lab.Send(t, "127.0.0.1:2000", header[:10])
		g.Signal(syscall.SIGCONT)
		stopped(t, g, 2*deadline, func() { write(t, half, header[10:]) })
		backend.Next(t)
		stopped(t, g, 0, func() { idle = lab.Send(t, "127.0.0.1:2001", append(header, "first"...)) })
		server := backend.Next(t)
		stopped(t, g, 2*deadline, func() { write(t, server, []byte("from the server")) })
		wantRead(t, server, "first")
		wantRead(t, idle, "from the server")
		stopped(t, g, 2*deadline, func() { write(t, idle, []byte("last words")) })
		wantRead(t, server, "last words")
		stopped(t, g, 2*deadline, func() {}) // the control
		g.NextConnection(t).Expect(t, "outcome", "idle_timeout")
	})
}
