package integration_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// banned4 and banned6 are clients that a firewall bans.
var (
	banned4 = netip.MustParseAddrPort("203.0.113.9:4711")
	banned6 = netip.MustParseAddrPort("[2001:db8:bad::9]:4711")
)

// wantBanned sends a request of a banned client. Its outcome must not name the
// return path, which is in order, and it must not have an action.
func wantBanned(t *testing.T, g *lab.Gateway, client netip.AddrPort, outcomes ...string) {
	t.Helper()
	wantEnd(t, lab.Send(t, g.Address(t, 0), append(headerOf(client), "payload"...)))
	line := g.NextConnection(t)
	line.Expect(t, "client", client.String(), "phase", "dial", "transparent", "true", "action", "")
	outcome, reason := line.String("outcome"), line.String("reason")
	switch {
	case !slices.Contains(outcomes, outcome):
		t.Errorf("ended %s (%s), want one of %q", outcome, reason, outcomes)
	case outcome == "connect_timeout" && !strings.Contains(reason, "answers other clients"):
		t.Errorf("the reason %q does not say that others are served", reason)
	}
}

// wantServed sends a request of a client that is served. Before it the backend's
// program must not have seen a connection from the gateway's own address. It may
// have seen a test client if the machine was too busy to end that test in time.
func wantServed(t *testing.T, g *lab.Gateway, b *lab.Backend, client netip.AddrPort) {
	t.Helper()
	c := lab.Send(t, g.Address(t, 0), headerOf(client))
	got := b.Next(t)
	for ; lab.Peer(got) != client; got = b.Next(t) {
		if lab.Peer(got).Addr().IsLoopback() {
			t.Errorf("the backend's program has seen a connection from %v", lab.Peer(got))
		}
	}
	c.CloseWrite()
	got.Close()
	g.NextConnection(t).Expect(t, "outcome", "ok", "client", client.String())
}

// test ──header──▶ unproxy ──▶ test 127.0.0.1:25, [::1]:25
//
// fail2ban drops or rejects the packets of one client. The return path is in
// force, so it is not the cause, and what restores it is no advice; the log says
// that the backend answers others. The backend's program sees no connection but
// those of clients that are served.
func TestBannedClientIsNotReportedAsMissingReturnPath(t *testing.T) {
	for _, hook := range []string{"input", "output"} {
		for _, verdict := range []string{"drop", "reject", "reject with tcp reset"} {
			for _, interval := range []string{"30s", "0"} {
				t.Run(hook+" "+verdict+" self-test "+interval, func(t *testing.T) {
					t.Parallel()
					netns.Run(t, func(t *testing.T) {
						lab.Require(t, "nft")
						for _, tt := range []struct {
							backend        string
							match          string
							banned, served netip.AddrPort
						}{
							{"127.0.0.1:25", "ip saddr 203.0.113.9", banned4, client4},
							{"[::1]:25", "ip6 saddr 2001:db8:bad::9", banned6, client6},
						} {
							b := lab.Listen(t, tt.backend)
							returnPath(t, tt.backend)
							lab.Output(t, "nft", fmt.Sprintf(
								"add table inet f2b; add chain inet f2b %[1]s { type filter hook %[1]s priority -1; }; "+
									"add rule inet f2b %[1]s tcp dport 25 %[2]s %[3]s", hook, tt.match, verdict))
							g := lab.StartGateway(t, transparentFlags(tt.backend, "--connect-timeout", "300ms",
								"--self-test-interval", interval)...)
							wantBanned(t, g, tt.banned, "connect_timeout", "backend_refused", "permission")
							wantServed(t, g, b, tt.served)
							wantBanned(t, g, tt.banned, "connect_timeout", "backend_refused", "permission")
							wantServed(t, g, b, tt.served)
						}
					})
				})
			}
		}
	}
}

// the gateway's host 10.9.0.1 ── back0 ══ 10.9.0.2 the backend's, whose network
// the client 10.9.0.77 is in as well
//
// The backend's host replies to such a client directly. The log says so, with the
// command for the backend's host; after that the client is served.
func TestClientInTheBackendsNetworkGetsAHint(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx", "nft")
		p := places[3]
		h := container(t)
		lab.NginxOn(t, h, whoAmI(p.backends))
		flags := append(p.flags(), "--self-test-interval", "0")
		routes(t, "apply", flags)
		g := lab.StartGateway(t, flags...)
		await.Until(t, "neighbours know each other", func() bool { return answers(t, p) })
		wantSeen(t, g)
		clients := map[string]netip.AddrPort{
			"10.9.0.2": netip.MustParseAddrPort("10.9.0.77:4711"),
			"fd09::2":  netip.MustParseAddrPort("[fd09::77]:4711"),
		}
		var cure string
		for backend, client := range clients {
			wantEnd(t, lab.Send(t, "127.0.0.1:2000", headerOf(client), []byte(whoAsk)))
			line := g.NextConnection(t)
			line.Expect(t, "outcome", "connect_timeout", "client", client.String())
			if !strings.Contains(line.String("reason"), "in the backend's own network") {
				t.Errorf("the reason is %q", line.String("reason"))
			}
			command, found := strings.CutSuffix(line.String("action"), " | ssh root@"+backend+" sh")
			if !found || !strings.HasPrefix(command, "unproxy routes print --backend-host ") {
				t.Fatalf("the action is %q", line.String("action"))
			}
			cure = strings.TrimPrefix(command, "unproxy")
		}
		h.Shell(t, lab.Output(t, "sh", "-c", lab.Binary(t)+cure))
		for _, client := range clients {
			c := lab.Send(t, "127.0.0.1:2000", headerOf(client), []byte(whoAsk))
			wantRead(t, c, "HTTP/1.1 200 OK")
			c.Close()
			g.NextConnection(t).Expect(t, "client", client.String(), "phase", "relay")
		}
	})
}
