package integration_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// A request whose header arrives byte by byte ends at the deadline of the header, and others are
// answered meanwhile:
//
//	8 × client ──b─y─t─e─s──▶ --admin, --health ◀── /readyz
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--admin", "--health"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				g, _, _ := session(t, flag, adminAt)
				before := openDescriptors(t, g.PID())
				request := []byte("GET /readyz HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 300))
				ended := make(chan int)
				for range 8 {
					conn := lab.Dial(t, adminAt)
					go func() {
						ended <- drip(conn, request, 100*time.Millisecond)
						conn.Close()
					}()
				}
				for range 20 {
					if code, body := adminGet(t, adminAt, "/readyz"); code != http.StatusOK {
						t.Errorf("/readyz: %d %s", code, body)
					}
				}
				for range 8 {
					if n := await.Receive(t, "the end of a slow request", ended); n == len(request) {
						t.Error("a header that took half a minute was not ended")
					}
				}
				await.Until(t, "the descriptors are closed", func() bool { return openDescriptors(t, g.PID()) <= before })
			})
		})
	}
}

// Requests beyond every limit are refused or cut, whatever is too long, and the endpoint goes on:
//
//	URL, field, fields, body without end ──▶ --admin, --health
func TestHugeRequests(t *testing.T) {
	t.Parallel()
	const most = 1 << 20 // bytes: far more than the endpoint reads, and than the sockets hold
	long := strings.Repeat("x", 64<<10)
	for _, flag := range []string{"--admin", "--health"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				netns.Sysctl(t, "net.ipv4.tcp_rmem", "4096 65536 65536")
				netns.Sysctl(t, "net.ipv4.tcp_wmem", "4096 65536 65536")
				session(t, flag, adminAt)
				for _, row := range []struct{ name, begins, repeats, want string }{
					{"URL", "GET /readyz?", long, " 431 "},
					{"field", "GET /readyz HTTP/1.1\r\nHost: localhost\r\nX: ", long, " 431 "},
					{"many fields", "GET /readyz HTTP/1.1\r\nHost: localhost\r\n", strings.Repeat("X: y\r\n", 5000), " 431 "},
					{"no line", "", long, " 400 | 431 "},
					{"body of a GET", "GET /readyz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", long, " 200 "},
					{"body of a POST", "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", long,
						" 200 | 404 "},
					{"body in chunks", "POST /bans?prefix=192.0.2.9 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
						"fff\r\n" + strings.Repeat("x", 0xfff) + "\r\n", " 200 | 404 "},
				} {
					sent, answer := sendHuge(t, row.begins, row.repeats, most)
					t.Logf("%s: %d bytes sent, %q", row.name, sent, answer)
					if sent >= most {
						t.Errorf("%s: the endpoint took %d bytes", row.name, sent)
					}
					if !containsOne(answer, row.want) {
						t.Errorf("%s: answered %q, want %s", row.name, answer, row.want)
					}
				}
				if code, body := adminGet(t, adminAt, "/readyz"); code != http.StatusOK {
					t.Errorf("/readyz afterwards: %d %s", code, body)
				}
			})
		})
	}
}

// containsOne reports whether a text has one of several parts, which "|" separates. "" is in each: a
// reset can overtake the answer.
func containsOne(text, parts string) bool {
	if text == "" {
		return true
	}
	for part := range strings.SplitSeq(parts, "|") {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// sendHuge sends a beginning and then the same text until the endpoint closes the connection, or most
// bytes are sent. It returns the number of bytes and the first line of the answer.
func sendHuge(t *testing.T, begins, repeats string, most int) (sent int, answer string) {
	t.Helper()
	conn := lab.Dial(t, adminAt)
	defer conn.Close()
	first := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(conn).ReadString('\n')
		first <- strings.TrimSpace(line)
	}()
	for text := begins; sent < most; text = repeats {
		n, err := io.WriteString(conn, text)
		sent += n
		if err != nil {
			if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q: %v", begins, err)
			}
			break
		}
	}
	return sent, await.Receive(t, "the end of the answer", first)
}

// A page of another site, or with its own name for the endpoint's address, changes nothing by any
// request. The control is the same request without that:
//
//	browser ──Host, Origin, Sec-Fetch-Site──▶ --admin
func TestChangesFromOtherSites(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t, "--admin", adminAt)
		id := connectionsOf(t, "").Connections[0].ID
		requests := []struct{ method, path string }{
			{"POST", "/bans?prefix=203.0.113.9"}, {"DELETE", "/bans?prefix=203.0.113.9"}, {"POST", "/-/reload"},
			{"POST", "/-/examine"}, {"DELETE", "/connections/" + id}, {"POST", "/-/drain"},
		}
		for _, r := range requests {
			for _, header := range []string{"Host: evil.example", "Host: evil.example:9180", "Host: 127.0.0.1.evil.example",
				"Origin: https://evil.example", "Origin: null", "Origin: http://127.0.0.1:8080", "Sec-Fetch-Site: cross-site",
				"Sec-Fetch-Site: same-site"} {
				if code, body := adminDo(t, adminClient(adminAt), r.method, r.path, header); code != http.StatusForbidden {
					t.Errorf("%s %s with %s: %d %s", r.method, r.path, header, code, body)
				}
			}
		}
		write(t, conn, []byte("still here"))
		wantRead(t, behind, "still here")
		if len(g.Logged(reloadedMessage)) > 0 || unproxy(t, "bans") != "no bans" {
			t.Error("a request took effect")
		}
		for _, r := range requests {
			if code, body := adminDo(t, adminClient(adminAt), r.method, r.path); code >= 300 {
				t.Errorf("the control: %s %s: %d %s", r.method, r.path, code, body)
			}
		}
		wantReset(t, conn)
		g.WaitLog(t, "draining")
	})
}

// Datagrams of peers that are not trusted are answered by nothing, so that no spoofed address can be used to
// flood its owner. The control is a trusted peer:
//
//	127.0.0.66 ──headers, payload, others──▶ gateway :2000 ──▶ echo :3000
//	127.0.0.1  ──header, payload──▶
func TestNoAmplification(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"every", "first", "spp"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "nft")
				sourceEcho(t, "127.0.0.1:3000")
				udpGateway(t, "--udp-header", mode, "--admin", adminAt)
				lab.Output(t, "nft", `add table inet count
add counter inet count untrusted
add counter inet count trusted
add chain inet count output { type filter hook output priority 0; }
add rule inet count output ip daddr 127.0.0.66 counter name untrusted
add rule inet count output ip daddr 127.0.0.1 udp sport 2000 counter name trusted`)
				header := lab.V2Datagram(client4, dest4, "")
				if mode == "spp" {
					header = lab.SPP(client4, dest4)
				}
				spoofed := [][]byte{append(header, "hello"...), header, lab.LocalDatagram("hello"), lab.Local(), {},
					[]byte("hello"), lab.V1(client4, dest4), lab.SPP(client4, dest4), lab.V2Datagram(client6, dest6, "hello"), header[:10]}
				victim := lab.ListenUDP(t, "127.0.0.66:0")
				victim.Send(t, gatewayUDP, spoofed...)
				trusted := lab.ListenUDP(t, "127.0.0.1:0")
				trusted.Send(t, gatewayUDP, append(header, "hello"...)) // the last of all
				trusted.Next(t)
				wantMetrics(t, fmt.Sprintf(`unproxy_udp_datagrams_dropped_total{reason="untrusted"} %d`, len(spoofed)),
					`unproxy_udp_datagrams_total{direction="in"} 1`)
				victim.Empty(t)
				counted := func(name string) int {
					return firstMatch(t, name, lab.Output(t, "nft", "list counter inet count "+name), `packets (\d+) bytes`)
				}
				if n := counted("untrusted"); n != 0 {
					t.Errorf("%d packets to the untrusted peer, want none", n)
				}
				if counted("trusted") == 0 {
					t.Error("no packet to the trusted peer was counted")
				}
			})
		})
	}
}
