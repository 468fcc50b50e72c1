package integration_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// toaFlags are the flags of a gateway from 127.0.0.1:2000 to a backend, with more flags.
func toaFlags(backend string, more ...string) []string {
	return append([]string{"--forward", "127.0.0.1:2000=" + backend, "--trust", "127.0.0.1", "--transparent", "toa",
		"--toa-source", carryAddress, "--toa-source", carryAddress6}, more...)
}

// The doctor in another cgroup reports what the gateway finds, by its admin endpoint, and without
// one that it cannot tell: that is no failure.
func TestTOADoctorAsksTheGateway(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newTOAHosts(t)
		h.attachServer(t, 0)
		h.listen(t, 0, "tcp")
		start := func() *lab.Gateway {
			g := lab.StartGatewayAs(t, lab.Command{Name: programIn(t, h.gateway, lab.Binary(t)), Limit: true},
				toaFlags("10.66.0.2:80", "--admin", adminAt)...)
			g.WaitLog(t, "ready")
			return g
		}
		doctor := func(code int, wants []string, more ...string) {
			t.Helper()
			output, got := lab.RunGateway(t, append([]string{"doctor", "--verbose"}, toaFlags("10.66.0.2:80", more...)...)...)
			for _, want := range wants {
				if got != code || !strings.Contains(output, want) {
					t.Errorf("with %q: exit code %d, want %d and %q:\n%s", more, got, code, want, output)
				}
			}
		}
		elsewhere := []string{"not known: this process is in the cgroup ", filepath.Base(h.gateway.Path), "# toa_promise:"}

		g := start()
		doctor(0, elsewhere)
		doctor(3, []string{fmt.Sprintf("the running gateway, process %d: no program sends clients' addresses", g.PID()),
			"unproxy toa attach --gateway --cgroup "}, "--admin", adminAt)
		g.Signal(syscall.SIGTERM)
		g.Wait(t)

		h.attachGateway(t)
		g = start()
		doctor(0, elsewhere)
		doctor(0, []string{fmt.Sprintf("the running gateway, process %d, sends clients' addresses", g.PID()),
			"its host promises to show clients"}, "--admin", adminAt)
	})
}

// Connections with a client in the option survive an upgrade and a reload, and new ones have their
// clients afterwards, from the next process: it inherits the cgroup. A reload denies new ones alone.
func TestTOAUpgradeAndReload(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newTOAHosts(t)
		h.attachGateway(t)
		h.attachServer(t, 0)
		h.listen(t, 0, "tcp")
		list := filepath.Join(t.TempDir(), "deny")
		deny := func(text string) {
			t.Helper()
			if err := os.WriteFile(list, []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		deny("# none")
		l := startLine(t, lab.Command{Name: programIn(t, h.gateway, lab.Binary(t)), Limit: true},
			toaFlags("10.66.0.2:80,[fd66::2]:80", "--deny-client-file", list, "--self-test-interval", "0")...)
		old := h.converse(t, l.Address(t, 0), client4)
		l.upgrade()
		old.goesOn()
		between := h.converse(t, l.Address(t, 0), client6)
		deny(client4.Addr().String())
		l.signal(syscall.SIGHUP)
		l.WaitLog(t, "lists reloaded; flags are read at the start only")
		refusedTOA(t, l.Gateway, client4, "client_denied")
		wantTOA(t, l.Gateway, client6)
		l.upgrade()
		for _, c := range []*toaConversation{old, between} {
			c.goesOn()
		}
		refusedTOA(t, l.Gateway, client4, "client_denied")
		wantTOA(t, l.Gateway, client6)
		for _, c := range []*toaConversation{old, between} {
			c.end()
			l.ConnectionOf(t, c.client.String()).Expect(t, "outcome", "ok", "toa", "true", "transparent", "true")
		}
		l.end()
	})
}

// The destination that the header names is the backend: it sees the client if its host promises, and
// gets nothing otherwise.
func TestTOAHeaderBackend(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newTOAHosts(t)
		h.attachGateway(t)
		h.attachServer(t, 0)
		promised, silent := h.listen(t, 0, "tcp"), h.listen(t, 1, "tcp")
		g := h.start(t, "header", "--allow-destination", "10.66.0.0/24", "--allow-destination", "fd66::/64")
		for _, tt := range []struct {
			client      netip.AddrPort
			destination string
			outcome     string
		}{
			{client4, "10.66.0.2:80", "ok"},
			{client6, "[fd66::2]:80", "ok"},
			{client4, "10.66.0.3:80", "toa_unpromised"},
			{client4, "10.67.0.2:80", "destination_denied"},
			{client4, "10.66.0.2:81", "backend_refused"},
		} {
			to := netip.MustParseAddrPort(tt.destination)
			greeting, echo, _ := askTOA(t, g.Address(t, 0), lab.V2(tt.client, to))
			wantGreeting, wantEcho := "", ""
			if tt.outcome == "ok" {
				wantGreeting, wantEcho = "hello "+tt.client.String(), "ping\n"
			}
			if greeting != wantGreeting || echo != wantEcho {
				t.Errorf("%s to %s got %q, %q; want %q, %q", tt.client, to, greeting, echo, wantGreeting, wantEcho)
			}
			g.NextConnection(t).Expect(t, "outcome", tt.outcome)
		}
		if promised() != 2 || silent() != 0 {
			t.Errorf("%d and %d connections were accepted; want 2, and none without a promise", promised(), silent())
		}
	})
}

// toaConversation is a connection that stays open.
type toaConversation struct {
	*testing.T
	conn   *net.TCPConn
	client netip.AddrPort
	sent   int
}

// converse opens a connection of a client, which the server greets by the client's address.
func (h *toaHosts) converse(t *testing.T, address string, client netip.AddrPort) *toaConversation {
	t.Helper()
	c := &toaConversation{T: t, conn: lab.Send(t, address, headerOf(client)), client: client}
	wantRead(t, c.conn, "hello "+client.String()+"\n")
	c.goesOn()
	return c
}

// goesOn sends a line and reads its echo.
func (c *toaConversation) goesOn() {
	c.Helper()
	c.sent++
	line := fmt.Sprintf("line %d\n", c.sent)
	if _, err := c.conn.Write([]byte(line)); err != nil {
		c.Fatal(err)
	}
	wantRead(c.T, c.conn, line)
}

// end closes the connection and waits until the gateway has.
func (c *toaConversation) end() {
	c.Helper()
	c.conn.CloseWrite()
	wantClosed(c.T, c.conn)
}
