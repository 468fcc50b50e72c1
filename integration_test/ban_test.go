package integration_test

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/gateway/admin"
	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// otherClient is a client that is not banned.
var otherClient = netip.MustParseAddrPort("198.51.100.20:4000")

// wantDenied sends a header of a client through the gateway, which must reset it without
// contacting the backend, and log the reason.
func wantDenied(t *testing.T, g *lab.Gateway, client netip.AddrPort, reason string) {
	t.Helper()
	wantReset(t, lab.Send(t, "127.0.0.1:2000", append(headerOf(client), "hello"...)))
	g.ConnectionOf(t, client.String()).Expect(t, "outcome", "client_denied", "phase", "dial", "reason", reason, "by", "gateway")
}

// wantThrough sends a header of a client through the gateway to the backend.
func wantThrough(t *testing.T, b *lab.Backend, client netip.AddrPort) {
	t.Helper()
	c := lab.Send(t, "127.0.0.1:2000", headerOf(client), []byte("hello"))
	behind := b.Next(t)
	wantRead(t, behind, "hello")
	c.Close()
	behind.Close()
}

const banned = "this client is banned"

// A ban holds for new connections of the client alone, and for none when it ends. With
// --cut it ends those that exist.
//
//	127.0.0.1 ──header──▶ gateway :2000 ◀── unproxy ban, unban
//	                          └──▶ backend :3000
func TestBan(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--admin", adminAt, "--loops", "2")
		mapped := netip.AddrPortFrom(netip.MustParseAddr("64:ff9b::"+client4.Addr().String()), 7)
		// One after the other: two event loops may reach the backend in either order.
		first := lab.Send(t, "127.0.0.1:2000", headerOf(client4))
		firstBehind := backend.Next(t)
		other := lab.Send(t, "127.0.0.1:2000", headerOf(otherClient))
		otherBehind := backend.Next(t)
		if lab.Peer(firstBehind) == lab.Peer(otherBehind) {
			t.Fatal("one connection twice")
		}
		if got := unproxy(t, "ban", client4.Addr().String(), "--reason", "guessing"); got != "banned "+client4.Addr().String() {
			t.Errorf("ban: %q", got)
		}
		wantDenied(t, g, client4, banned)
		wantDenied(t, g, mapped, banned)
		wantThrough(t, backend, otherClient)
		// The connections from before go on.
		write(t, first, []byte("still"))
		write(t, other, []byte("still"))
		wantRead(t, firstBehind, "still")
		wantRead(t, otherBehind, "still")

		var list admin.Bans
		if err := json.Unmarshal([]byte(unproxy(t, "bans", "--json")), &list); err != nil || len(list.Bans) != 1 {
			t.Fatal(err, list)
		}
		if b := list.Bans[0]; b.Prefix != client4.Addr().String()+"/32" || b.Reason != "guessing" || b.Hits != 2 || !b.Until.IsZero() {
			t.Errorf("listed as %+v", b)
		}
		got := unproxy(t, "ban", "--cut", client4.Addr().String())
		if !strings.Contains(got, "ended 1 connection") {
			t.Errorf("ban --cut: %q", got)
		}
		wantReset(t, first)
		wantReset(t, firstBehind)
		g.ConnectionOf(t, client4.String()).Expect(t, "outcome", "client_denied", "phase", "relay", "by", "gateway", "reason", "the client was banned")
		write(t, other, []byte("more"))
		wantRead(t, otherBehind, "more")

		if got := unproxy(t, "unban", client4.Addr().String()); got != "unbanned "+client4.Addr().String() {
			t.Errorf("unban: %q", got)
		}
		wantThrough(t, backend, client4)
		unproxy(t, "ban", "--for", "1ms", client4.Addr().String())
		await.Until(t, "the ban ends by itself", func() bool { return unproxy(t, "bans") == "no bans" })
		wantThrough(t, backend, client4)

		_, metrics := adminGet(t, adminAt, "/metrics")
		if !strings.Contains(metrics, "\nunproxy_bans_refused_total 2\n") || !strings.Contains(metrics, "\nunproxy_bans 0\n") {
			t.Error("the metrics do not count the refusals")
		}
	})
}

// What is not the client's stays: the load balancer's health checks, a header that names no
// client, and clients of other prefixes. Neither does unban end a wider ban.
func TestBanOfAPrefix(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--admin", adminAt)
		local := lab.Send(t, "127.0.0.1:2000", lab.Local())
		localBehind := backend.Next(t)
		unproxy(t, "ban", "--cut", "127.0.0.0/8")
		unproxy(t, "ban", "--cut", "192.0.2.0/24")
		wantDenied(t, g, client4, banned)
		write(t, local, []byte("still"))
		wantRead(t, localBehind, "still")
		wantThrough(t, backend, otherClient)
		lab.Send(t, "127.0.0.1:2000", []byte("PROXY UNKNOWN\r\nhello"))
		wantRead(t, backend.Next(t), "hello")
		for _, tt := range []struct {
			args string
			code int
			want string
		}{
			{"unban " + client4.Addr().String(), 1, "is still banned, by 192.0.2.0/24"},
			{"unban 192.0.2.0/25", 1, "is still banned, by 192.0.2.0/24"},
			{"unban 198.51.100.1", 0, "198.51.100.1 was not banned"},
			{"ban 203.0.113.9/24", 2, "has host bits set"},
			{"ban 203.0.113.9 198.51.100.1", 2, "more than one address"},
			{"ban --for 10 203.0.113.9", 2, "--for"},
			{"ban 203.0.113.9 --for 0", 2, "--for 0 would end the ban at once"},
			{"ban 0.0.0.0/0", 2, "0.0.0.0/0 would ban every client of IPv4"},
			{"ban ::/0 --admin 127.0.0.1:9", 2, "::/0 would ban every client of IPv6"},
			{"ban", 2, "no address"},
			{"ban 203.0.113.9 --fr 1h", 2, "not defined: -fr"},
			{"ban --admin 127.0.0.1:9 203.0.113.9", 1, "no answer"},
		} {
			output, code := lab.RunGateway(t, strings.Fields(tt.args)...)
			if code != tt.code || !strings.Contains(output, tt.want) {
				t.Errorf("unproxy %s: %d %s; want %d %s", tt.args, code, output, tt.code, tt.want)
			}
		}
	})
}

// Bans outlive a reload, and with a file a restart. A file that is broken, or cannot be
// written, ends the start.
func TestBanFile(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		file := filepath.Join(t.TempDir(), "bans")
		g := plainGateway(t, "--admin", adminAt, "--ban-file", file)
		unproxy(t, "ban", client4.Addr().String(), "--for", "100h", "--reason", "a \"note\"")
		g.Signal(syscall.SIGHUP)
		g.WaitLogs(t, reloadedMessage, 1)
		wantDenied(t, g, client4, banned)
		if err := os.Chmod(file, 0o640); err != nil {
			t.Fatal(err)
		}
		g.Signal(syscall.SIGTERM)
		g.Wait(t)

		g = plainGateway(t, "--admin", adminAt, "--ban-file", file)
		wantDenied(t, g, client4, banned)
		wantThrough(t, backend, otherClient)
		unproxy(t, "unban", client4.Addr().String())
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%v: the mode is not kept", err)
		}
		g.Signal(syscall.SIGKILL)
		g.Wait(t)
		g = plainGateway(t, "--admin", adminAt, "--ban-file", file)
		wantThrough(t, backend, client4)
		g.Signal(syscall.SIGTERM)
		g.Wait(t)

		for content, want := range map[string]string{
			"203.0.113.9\n": "--ban-file \"" + file + "\" cannot be used: read ban file",
			"":              "",
		} {
			if err := os.WriteFile(file, []byte(content), 0o640); err != nil {
				t.Fatal(err)
			}
			output, code := lab.RunGateway(t, "check", "--forward", ":1=127.0.0.1:2", "--trust", "10.0.0.0/8", "--ban-file", file)
			if (code == 0) != (want == "") || !strings.Contains(output, want) {
				t.Errorf("%q: %d %s; want %q", content, code, output, want)
			}
		}
		missing := filepath.Join(file+".missing", "bans")
		output, code := lab.RunGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "10.0.0.0/8", "--ban-file", missing)
		if code != 1 || !strings.Contains(output, "unproxy: error: write ban file "+missing+": ") || strings.Contains(output, "listening") {
			t.Errorf("a file that cannot be written: %d %s", code, output)
		}
	})
}

// The process that takes over has the bans of the one before it, with and without a file.
func TestBansOutliveAnUpgrade(t *testing.T) {
	t.Parallel()
	for name, withFile := range map[string]bool{"in memory": false, "with a file": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) { bansOutliveAnUpgrade(t, withFile) })
		})
	}
}

func bansOutliveAnUpgrade(t *testing.T, withFile bool) {
	backend := lab.Listen(t, "127.0.0.1:3000")
	flags := []string{"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.0/8", "--admin", adminAt}
	file := filepath.Join(t.TempDir(), "bans")
	if withFile {
		flags = append(flags, "--ban-file", file)
	}
	l := startLine(t, lab.Command{}, flags...)
	unproxy(t, "ban", client4.Addr().String(), "--for", "100h", "--reason", "before")
	unproxy(t, "ban", "2001:db8:bad::/64")
	if withFile { // the list that is handed over counts, not the file
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l.upgrade()
	wantDenied(t, l.Gateway, client4, banned)
	wantDenied(t, l.Gateway, banned6, banned)
	wantThrough(t, backend, otherClient)
	list := unproxy(t, "bans")
	if strings.Count(list, "\n") != 2 || !strings.Contains(list, "before") {
		t.Errorf("after the upgrade:\n%s", list)
	}
	unproxy(t, "unban", client4.Addr().String())
	l.upgrade()
	wantThrough(t, backend, client4)
	wantDenied(t, l.Gateway, banned6, banned)
	if withFile && !strings.Contains(string(readFile(t, file)), "2001:db8:bad::/64") {
		t.Error("the new process has not written the file")
	}
	l.end()
}

// A ban refuses new flows, and with --cut it ends those that exist.
func TestBanOfUDP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := udpGateway(t, "--admin", adminAt, "--loops", "2")
		lb := lab.ListenUDP(t, "127.0.0.1:0")
		send := func(client netip.AddrPort, payload string) {
			lb.Send(t, gatewayUDP, lab.V2Datagram(client, dest4, payload))
		}
		send(client4, "one")
		backend.Expect(t, "one")
		send(otherClient, "two")
		backend.Expect(t, "two")
		unproxy(t, "ban", client4.Addr().String())
		send(client4, "the flow goes on")
		backend.Expect(t, "the flow goes on")
		if got := unproxy(t, "ban", client4.Addr().String(), "--cut"); !strings.Contains(got, "ended 1 connection") {
			t.Errorf("ban --cut: %q", got)
		}
		g.ConnectionOf(t, client4.String()).Expect(t, "outcome", "client_denied", "protocol", "udp", "by", "gateway")
		send(client4, "refused")
		send(otherClient, "three")
		backend.Expect(t, "three")
		await.Until(t, "the drop is counted", func() bool {
			_, metrics := adminGet(t, adminAt, "/metrics")
			return strings.Contains(metrics, "\nunproxy_udp_datagrams_dropped_total{reason=\"client_denied\"} 1\n")
		})
		unproxy(t, "unban", client4.Addr().String())
		send(client4, "again")
		backend.Expect(t, "again")
	})
}

// A web page of another site can neither ban nor unban.
func TestBanOfAnotherOrigin(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		plainGateway(t, "--admin", adminAt)
		code, _ := adminPost(t, "/bans?prefix=203.0.113.9", "Origin: https://site.example")
		if code != http.StatusForbidden || unproxy(t, "bans") != "no bans" {
			t.Errorf("another origin: %d", code)
		}
		if code, body := adminPost(t, "/bans?prefix=203.0.113.9"); code != http.StatusOK {
			t.Errorf("curl: %d %s", code, body)
		}
	})
}
