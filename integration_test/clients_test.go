package integration_test

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

const (
	deniedByRule = "a rule denies this client"
	notAllowed   = "no rule allows this client"
)

// Rules about clients are read again at a reload, all or none. A connection that exists
// goes on. The load balancer's own connections are no client's.
//
//	127.0.0.1 ──header──▶ gateway :2000, --deny-client-file ◀── SIGHUP
//	                          └──▶ backend :3000
func TestDenyByReload(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		list := lab.WriteFile(t, "deny", "# none\n")
		g := plainGateway(t, "--deny-client-file", list, "--deny-client", "127.0.0.0/8", "--admin", adminAt)
		before := lab.Send(t, "127.0.0.1:2000", headerOf(client4))
		behind := backend.Next(t)
		rewrite(t, list, client4.Addr().String()+"\n")
		g.Signal(syscall.SIGHUP)
		g.WaitLogs(t, reloadedMessage, 1)
		wantDenied(t, g, client4, deniedByRule)
		wantThrough(t, backend, otherClient)
		lab.Send(t, "127.0.0.1:2000", append(lab.Local(), "check"...))
		wantRead(t, backend.Next(t), "check")
		write(t, before, []byte("still"))
		wantRead(t, behind, "still")
		rewrite(t, list, otherClient.Addr().String()+"\nnobody\n")
		g.Signal(syscall.SIGHUP)
		g.WaitLogs(t, failedMessage, 1)
		wantDenied(t, g, client4, deniedByRule)
		wantThrough(t, backend, otherClient)
		status := unproxy(t, "status", "--json")
		if !strings.Contains(status, `"action": "deny"`) || !strings.Contains(status, client4.Addr().String()+"/32") {
			t.Errorf("the hits are not shown:\n%s", status)
		}
	})
}

// Only clients that a rule allows are served. One that the header does not name could be
// any; the load balancer's own health checks go through.
func TestAllowClient(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--allow-client", client4.Addr().String(), "--untrusted", "pass")
		wantThrough(t, backend, client4)
		wantDenied(t, g, otherClient, notAllowed)
		wantReset(t, lab.Send(t, "127.0.0.1:2000", []byte("PROXY UNKNOWN\r\nhello")))
		line := g.NextConnection(t)
		for line.String("command") != "unknown" {
			line = g.NextConnection(t)
		}
		line.Expect(t, "outcome", "client_denied", "command", "unknown", "phase", "dial",
			"reason", "the header names no client, and only clients that a rule allows are served")
		lab.Send(t, "127.0.0.1:2000", append(lab.Local(), "check"...))
		wantRead(t, backend.Next(t), "check")
		wantRejected(t, "127.0.0.2", "127.0.0.1:2000", nil) // a client itself, by --untrusted pass
		g.ConnectionOf(t, "127.0.0.2").Expect(t, "outcome", "client_denied", "phase", "trust", "reason", notAllowed)
	})
}

// Each client has its own rate. What a rule denies uses none of it.
func TestClientRate(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--client-rate", "1/2")
		limited := func() bool {
			for range 5 { // far more than one a second, also on a busy machine
				lab.Send(t, "127.0.0.1:2000", headerOf(client4)).Close()
			}
			return slices.ContainsFunc(g.Logged("connection"), func(l lab.Line) bool { return l.String("outcome") == "limit" })
		}
		await.Until(t, "a connection is refused", limited)
		for {
			line := g.ConnectionOf(t, client4.String())
			if line.String("outcome") == "limit" {
				line.Expect(t, "phase", "dial", "reason", "client exceeds the client-rate limit", "by", "gateway")
				break
			}
		}
		c := lab.Send(t, "127.0.0.1:2000", append(headerOf(otherClient), "hello"...))
		c.CloseWrite()
		for { // skips what is left of the other client, which sent nothing
			behind := backend.Next(t)
			got, _ := io.ReadAll(behind)
			behind.Close()
			if string(got) == "hello" {
				return
			}
		}
	})
}

// Datagrams: rules and rate decide about new flows, and the drops are counted.
func TestClientsOfUDP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := udpGateway(t, "--admin", adminAt, "--deny-client", client4.Addr().String(), "--client-rate", "1/1",
			"--direct", "127.0.0.2", "--trust", "127.0.0.0/8")
		lb := lab.ListenUDP(t, "127.0.0.1:0")
		lb.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "denied"), lab.V2Datagram(otherClient, dest4, "served"))
		backend.Expect(t, "served")
		counted := func(reason string) bool {
			_, metrics := adminGet(t, adminAt, "/metrics")
			return !strings.Contains(metrics, "\nunproxy_udp_datagrams_dropped_total{reason=\""+reason+"\"} 0\n")
		}
		if !counted("client_denied") {
			t.Error("the denied datagram is not counted")
		}
		next := otherClient
		for !counted("limit") { // each datagram would begin a flow
			next = netip.AddrPortFrom(next.Addr(), next.Port()+1)
			lb.Send(t, gatewayUDP, lab.V2Datagram(next, dest4, "one more"))
			if next.Port() > otherClient.Port()+2000 {
				t.Fatal("no flow was too many")
			}
		}
		// A direct peer is the client itself, and its datagrams are payload.
		direct := lab.ListenUDP(t, "127.0.0.2:0")
		direct.Send(t, gatewayUDP, []byte("no header"))
		for {
			if data, from := backend.Next(t); data == "no header" {
				backend.Reply(t, from, "reply")
				break
			}
		}
		direct.Expect(t, "reply")
		g.Signal(syscall.SIGTERM)
	})
}

// A direct peer, a trusted one and a health checker on the same listener. The more specific
// of a direct and a trust rule decides.
//
//	127.0.0.1 ──header──▶ gateway :2000 ──▶ backend :3000
//	127.1.0.1 ──no header──▶   trusts 127.0.0.0/8, direct 127.1.0.0/16
func TestDirect(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		flags := []string{"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.0/8", "--trust", "127.1.0.9",
			"--direct", "127.1.0.0/16", "--health-source", "127.2.0.1", "--admin", adminAt}
		g := lab.StartGateway(t, append(flags, "--deny-client", "127.1.0.3")...)
		direct := dialFrom(t, "127.1.0.1", "127.0.0.1:2000")
		behind := backend.Next(t) // before a byte was sent: the backend may speak first
		write(t, behind, []byte("220 hello"))
		wantRead(t, direct, "220 hello")
		write(t, direct, []byte("PROXY TCP4 is payload"))
		wantRead(t, behind, "PROXY TCP4 is payload")
		direct.Close()
		behind.Close()
		g.ConnectionOf(t, "127.1.0.1").Expect(t, "outcome", "ok", "version", "0", "command", "", "transparent", "false")
		wantThrough(t, backend, client4)
		trusted := dialFrom(t, "127.1.0.9", "127.0.0.1:2000") // its own rule is more specific
		write(t, trusted, append(headerOf(otherClient), "hello"...))
		wantRead(t, backend.Next(t), "hello")
		wantRejected(t, "127.1.0.3", "127.0.0.1:2000", nil)
		g.ConnectionOf(t, "127.1.0.3").Expect(t, "outcome", "client_denied", "phase", "trust", "reason", deniedByRule)
		wantClosed(t, dialFrom(t, "127.2.0.1", "127.0.0.1:2000"))
		unproxy(t, "ban", "127.1.0.4")
		wantRejected(t, "127.1.0.4", "127.0.0.1:2000", nil)
		g.ConnectionOf(t, "127.1.0.4").Expect(t, "outcome", "client_denied", "phase", "trust", "reason", banned)

		output := unproxy(t, append([]string{"check"}, flags[:len(flags)-2]...)...)
		for _, line := range []string{
			"health checks 127.2.0.1 (1 rule): closed cleanly, not forwarded",
			"direct        127.1.0.0/16 (1 rule): no header, each peer is the client itself; within a trust rule the more specific one decides",
			"trust         127.0.0.0/8, 127.1.0.9 (2 rules); others are reset",
		} {
			if !strings.Contains(output, "  "+line+"\n") {
				t.Errorf("check has no line %q:\n%s", line, output)
			}
		}
	})
}

// In transparent mode the backend sees the direct peer's own address.
func TestDirectAndTransparent(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		peer := lab.NewHost(t, "lan", "10.9.0.2/24")
		netns.IP(t, "address add 10.9.0.1/24 dev lan")
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()}, "--forward", "10.9.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1",
			"--direct", "10.9.0.0/24", "--transparent", "on")
		returnPath(t, "127.0.0.1:3000")
		var conn net.Conn
		peer.Do(t, func() { conn = lab.Dial(t, "10.9.0.1:2000") })
		behind := backend.Next(t)
		if got := lab.Peer(behind).Addr(); got != netip.MustParseAddr("10.9.0.2") {
			t.Errorf("the backend saw %v", got)
		}
		write(t, conn, []byte("hello"))
		wantRead(t, behind, "hello")
		conn.Close()
		behind.Close()
		g.ConnectionOf(t, "10.9.0.2").Expect(t, "outcome", "ok", "transparent", "true")
	})
}
