package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// Three gateways behind HAProxy, which asks each of them whether its forward is ready. One drains and one is
// killed, under load. Only connections of the killed one are lost:
//
//	clients ──▶ haproxy :1000 ──v2──▶ 10.9.0.5:2000 ──▶ echo 10.9.0.254:3000
//	                          ──v2──▶ 10.9.0.6:2000   SIGTERM
//	                          ──v2──▶ 10.9.0.7:2000   SIGKILL
func TestScaleOut(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy")
		switched(t)
		tellPeers(t, "10.9.0.254:3000")
		gateways := map[string]*lab.Gateway{}
		servers := ""
		for _, number := range []int{5, 6, 7} {
			address := fmt.Sprintf("10.9.0.%d", number)
			gateways[address] = lab.StartGatewayOn(t, plugged(t, number), "--forward", ":2000=10.9.0.254:3000",
				"--trust", "10.9.0.254", "--health", ":9181", "--backend-check", "100ms",
				"--drain-delay", "1h", "--access-log", "off", "--log-level", "info")
			servers += fmt.Sprintf("  server %[1]s %[1]s:2000 send-proxy-v2 check port 9181 inter 50ms rise 1 fall 1\n", address)
		}
		stats := filepath.Join(t.TempDir(), "stats")
		lab.HAProxy(t, "global\n  stats socket "+stats+haproxyPreamble+"listen web\n  bind 127.0.0.1:1000\n"+
			"  balance roundrobin\n  retries 5\n  option redispatch 1\n  option httpchk GET /readyz?forward=:2000\n"+servers,
			"127.0.0.1:1000")
		want := func(when, server, state string) {
			t.Helper()
			await.Until(t, when+", HAProxy finds "+server+" "+state, func() bool {
				return haproxyStats(t, stats)["web/"+server]["status"] == state
			})
		}
		for address := range gateways {
			want("at the start", address, "UP")
		}
		sessions := openSessions(t, "127.0.0.1:1000", 12)
		for address := range gateways {
			if len(sessions[address]) == 0 {
				t.Fatalf("no session through %s of %v", address, sessions)
			}
		}

		load := startLoad(t, 4, func() error {
			_, err := visit("127.0.0.1:1000", await.Deadline(t))
			return err
		})
		load.goesOn()
		gateways["10.9.0.6"].Signal(syscall.SIGTERM)
		want("while it drains", "10.9.0.6", "DOWN")
		load.goesOn()
		if lost := load.failures(); len(lost) > 0 {
			t.Errorf("the drain lost connections: %v", lost)
		}
		gateways["10.9.0.7"].Signal(syscall.SIGKILL)
		want("after it was killed", "10.9.0.7", "DOWN")
		load.goesOn()
		for _, lost := range load.failures() {
			if strings.HasPrefix(lost.Error(), "10.9.0.5") || strings.HasPrefix(lost.Error(), "10.9.0.6") {
				t.Errorf("a connection of a gateway that was not killed is lost: %v", lost)
			}
		}
		load.end() // without stop's errors: what the killed gateway had is lost
		for address, all := range sessions {
			for _, s := range all {
				if address == "10.9.0.7" {
					wantEnd(t, s)
					continue
				}
				write(t, s, []byte("still here"))
				wantRead(t, s, "still here")
			}
		}
		if through, err := visit("127.0.0.1:1000", await.Deadline(t)); through != "10.9.0.5" || err != nil {
			t.Errorf("a new connection: %s, %v; want it through 10.9.0.5", through, err)
		}
		for _, address := range []string{"10.9.0.5", "10.9.0.6"} {
			gateways[address].Signal(syscall.SIGTERM) // a second signal ends the drain
		}
	})
}

// tellPeers starts a server that says who connects, and then echoes.
func tellPeers(t *testing.T, address string) {
	t.Helper()
	lab.Serve(t, address, func(c net.Conn) {
		fmt.Fprintf(c, "%s\n", lab.Peer(c).Addr())
		io.Copy(c, c)
	})
}

// openSessions opens n connections and returns them by the gateway that each passes.
func openSessions(t *testing.T, address string, n int) map[string][]net.Conn {
	t.Helper()
	all := map[string][]net.Conn{}
	for range n {
		c := lab.Dial(t, address)
		through := make([]byte, len("10.9.0.5\n"))
		if _, err := io.ReadFull(c, through); err != nil {
			t.Fatalf("a session: %v", err)
		}
		gateway := strings.TrimSpace(string(through))
		all[gateway] = append(all[gateway], c)
	}
	return all
}

// visit makes one connection and returns the gateway that it passed. An error begins with that gateway if it is
// known.
func visit(address string, deadline time.Time) (through string, err error) {
	c, err := net.DialTimeout("tcp", address, time.Until(deadline))
	if err != nil {
		return "", fmt.Errorf("not connected: %w", err)
	}
	defer c.Close()
	c.SetDeadline(deadline)
	r := bufio.NewReader(c)
	through, err = r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("no gateway: %w", err)
	}
	through = strings.TrimSpace(through)
	if _, err := io.WriteString(c, "request\n"); err != nil {
		return through, fmt.Errorf("%s %w", through, err)
	}
	if answer, err := r.ReadString('\n'); err != nil || answer != "request\n" {
		return through, fmt.Errorf("%s %q, %v", through, answer, err)
	}
	return through, nil
}
