package integration_test

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// HAProxy's HTTP check in its default form, HTTP/1.0 without a Host field, finds the
// gateway up while it is ready, and down while it drains. The endpoint is --health on
// any address, or --admin on loopback:
//
//	haproxy ──OPTIONS or GET /readyz HTTP/1.0──▶ --health 10.0.0.5:9181, gateway 10.0.0.5:2000 ◀── SIGTERM
func TestHAProxyChecksReadiness(t *testing.T) {
	const every = " inter 200ms fall 1 rise 1"
	// No name has a comma: it is part of the path of HAProxy's socket.
	for _, tt := range []struct{ name, flag, address, check, server string }{
		{"health", "--health", "10.0.0.5:9181", "option httpchk /readyz",
			"server s 10.0.0.5:2000 send-proxy-v2 check port 9181" + every},
		{"health on all addresses", "--health", ":9181", "option httpchk GET /readyz",
			"server s 10.0.0.5:2000 send-proxy-v2 check port 9181" + every},
		{"health over IPv6", "--health", "[fd00::5]:9181", "option httpchk /readyz",
			"server s [fd00::5]:2000 send-proxy-v2 check port 9181" + every},
		{"health in HTTP 1.1", "--health", "10.0.0.5:9181",
			"option httpchk\n  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host gateway.example",
			"server s 10.0.0.5:2000 send-proxy-v2 check port 9181" + every},
		{"health on a unix socket", "--health", "unix:SOCKET", "option httpchk /readyz", "server s unix@SOCKET check" + every},
		{"admin", "--admin", adminAt, "option httpchk /readyz",
			"server s 127.0.0.1:2000 send-proxy-v2 check port 9180" + every},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "haproxy")
				netns.IP(t, "address add 10.0.0.5/32 dev lo")
				netns.IP(t, "-6 address add fd00::5/128 dev lo nodad")
				path := strings.NewReplacer("SOCKET", filepath.Join(t.TempDir(), "health"))
				lab.Echo(t, "127.0.0.1:3000")
				g := lab.StartGateway(t, "--forward", ":2000=127.0.0.1:3000", "--trust", "10.0.0.0/8", "--trust", "127.0.0.1", "--trust", "fd00::/8",
					tt.flag, path.Replace(tt.address), "--drain-delay", "1h")
				socket := checkingHAProxy(t, path.Replace(tt.check+"\n  "+tt.server))
				wantUp(t, socket)
				g.Signal(syscall.SIGTERM)
				wantState(t, socket, "DOWN")
				g.Signal(syscall.SIGTERM)
				if code := g.Wait(t); code != 0 {
					t.Errorf("exit code %d, want 0", code)
				}
			})
		})
	}
}

// Another host reaches the health endpoint and no more than that: nothing that shows
// clients, and nothing that changes the gateway.
//
//	curl ──▶ --health 10.0.0.5:9181, --admin 127.0.0.1:9180, gateway
func TestHealthIsReadOnly(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "curl")
		netns.IP(t, "address add 10.0.0.5/32 dev lo")
		g, conn, behind := session(t, "--health", "10.0.0.5:9181", "--admin", adminAt, "--pprof")
		if got := g.WaitLog(t, "health endpoint").String("address"); got != "10.0.0.5:9181" {
			t.Errorf("logged address %q", got)
		}
		curl := func(args ...string) string {
			output, _ := lab.Run(t, lab.Command{Name: "curl", Args: append([]string{"--silent", "--output", "/dev/null",
				"--write-out", "%{http_code}", "--max-time", "100"}, args...)})
			return output
		}
		const health = "http://10.0.0.5:9181"
		for _, tt := range []struct {
			want string
			args []string
		}{
			{"200", []string{health + "/readyz"}},
			{"200", []string{health + "/healthz"}},
			{"200", []string{health + "/metrics"}},
			{"200", []string{"--http1.0", "--header", "Host:", health + "/readyz"}},
			{"200", []string{"--http1.0", "--header", "Host:", "http://" + adminAt + "/readyz"}},
			{"200", []string{"--header", "Host: gateway.example", health + "/readyz"}},
			{"403", []string{"--header", "Host: gateway.example", "http://" + adminAt + "/readyz"}},
			{"403", []string{"--http1.0", "--header", "Host:", "http://" + adminAt + "/connections.json"}},
			{"200", []string{"http://" + adminAt + "/connections.json"}},
			{"404", []string{health + "/connections.json"}},
			{"404", []string{health + "/status.json"}},
			{"404", []string{health + "/"}},
			{"404", []string{health + "/debug/pprof/cmdline"}},
			{"404", []string{"--request", "POST", health + "/-/drain"}},
			{"404", []string{"--request", "DELETE", health + "/connections/1"}},
			{"200", []string{"http://" + adminAt + "/debug/pprof/cmdline"}},
			{"403", []string{"--header", "Sec-Fetch-Site: cross-site", "http://" + adminAt + "/debug/pprof/cmdline"}},
			{"000", []string{"http://10.0.0.5:9180/readyz"}}, // refused
		} {
			if got := curl(tt.args...); got != tt.want {
				t.Errorf("curl %q: %s, want %s", tt.args, got, tt.want)
			}
		}
		if output, code := lab.RunGateway(t, "healthcheck", "--health", "10.0.0.5:9181"); code != 0 || output != "ready" {
			t.Errorf("healthcheck: exit code %d: %s", code, output)
		}
		write(t, conn, []byte("still here"))
		wantRead(t, behind, "still here")
	})
}

// scrapeAgain asks again, before the connection has been idle for too long, until it
// is closed.
func scrapeAgain(conn net.Conn, request string) {
	go io.Copy(io.Discard, conn)
	for {
		if _, err := io.WriteString(conn, request); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

// Clients that hold every connection of an endpoint keep probes from no answer:
//
//	16 × idle, half a header, or not reading ──▶ --health or --admin ◀── /readyz, healthcheck
func TestProbesHaveSlots(t *testing.T) {
	const request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
	for _, flag := range []string{"--health", "--admin"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				session(t, flag, adminAt)
				for _, hostile := range []struct{ name, sends string }{
					{"idle", request + "\r\n"},
					{"half a header", request},
					{"not reading", strings.Repeat(request+"\r\n", 1000)},
				} {
					for range 16 {
						conn, err := net.Dial("tcp", adminAt)
						if err != nil {
							t.Fatal(err)
						}
						defer conn.Close()
						if hostile.name == "idle" {
							write(t, conn, []byte(hostile.sends))
							wantRead(t, conn, "HTTP/1.1 200 OK")
							go scrapeAgain(conn, hostile.sends)
							continue
						}
						conn.(*net.TCPConn).SetReadBuffer(4096)
						go io.WriteString(conn, hostile.sends)
					}
					client := adminClient(adminAt)
					for range 20 {
						if code, body := adminDo(t, client, http.MethodGet, "/readyz"); code != http.StatusOK {
							t.Errorf("%s: /readyz: %d %s", hostile.name, code, body)
						}
					}
					if output, code := lab.RunGateway(t, "healthcheck", flag, adminAt, "--timeout", "3m"); code != 0 {
						t.Errorf("%s: healthcheck: exit code %d: %s", hostile.name, code, output)
					}
				}
			})
		})
	}
}

// HAProxy's checks with a LOCAL header, which the gateway relays and HAProxy resets,
// leave no line at the default level, are counted apart, and hide nothing else:
//
//	haproxy ──LOCAL, every 20 ms──▶ gateway :2000 ──▶ backend :3000
//	client  ──PROXY───────────────▶
func TestHealthChecksLeaveNoLine(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy")
		const forward = `forward="127.0.0.1:2000"`
		lab.Echo(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--forward", "127.0.0.1:2001=127.0.0.1:3001",
			"--trust", "127.0.0.1", "--admin", adminAt, "--log-level", "info")
		checkingHAProxy(t, "server s 127.0.0.1:2000 check send-proxy-v2 inter 20ms")
		var counted string
		await.Until(t, "ten health checks are counted", func() bool {
			_, counted = adminGet(t, adminAt, "/metrics")
			reset := regexp.MustCompile(`unproxy_local_connections_closed_total\{` + forward + `,outcome="(?:reset|ok)"\} ([0-9]+)`)
			checks := 0
			for _, m := range reset.FindAllStringSubmatch(counted, -1) {
				n, _ := strconv.Atoi(m[1])
				checks += n
			}
			return checks >= 10
		})
		if s := statusOf(t, adminAt); s.Forwards[0].Refused != 0 || len(s.Forwards[0].Local) == 0 {
			t.Errorf("status: %d refused, LOCAL %v", s.Forwards[0].Refused, s.Forwards[0].Local)
		}
		for _, line := range g.Log() {
			if line.String("message") == "connection" {
				t.Errorf("logged %v", line)
			}
		}
		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		conn.Close()
		g.NextConnection(t).Expect(t, "command", "proxy", "level", "info", "client", client4.String())
		lab.Send(t, "127.0.0.1:2001", lab.Local()) // no backend
		g.NextConnection(t).Expect(t, "command", "local", "level", "warn", "outcome", "backend_refused")
		lab.Send(t, "127.0.0.1:2000", []byte("PROXY UNKNOWN\r\n")).Close()
		g.NextConnection(t).Expect(t, "command", "unknown", "level", "info")
		lab.Send(t, "127.0.0.1:2000", []byte("GET / HTTP/1.0\r\n\r\n"))
		g.NextConnection(t).Expect(t, "command", "", "outcome", "not_proxy")
		if s := statusOf(t, adminAt); s.Forwards[1].Refused != 0 || s.Forwards[1].Local["backend_refused"] != 1 {
			t.Errorf("status: %d refused, LOCAL %v", s.Forwards[1].Refused, s.Forwards[1].Local)
		}
	})
}

// At debug level each check has its line, which says that it is one. UDP flows are alike.
//
//	haproxy ──LOCAL────────────▶ gateway :2000 ──▶ backend :3000
//	lb      ──LOCAL, over UDP──▶
func TestHealthChecksAtDebugLevel(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy")
		lab.Echo(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1")
		checkingHAProxy(t, "server s 127.0.0.1:2000 check send-proxy-v2 inter 20ms")
		g.NextConnection(t).Expect(t, "command", "local", "level", "debug", "version", "2")

		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		u := lab.StartGateway(t, "--forward", "udp://"+gatewayUDP+"=127.0.0.1:3000", "--trust", "127.0.0.1", "--udp-idle-timeout", "1s")
		lb := lab.ListenUDP(t, "127.0.0.1:0")
		lb.Send(t, gatewayUDP, lab.LocalDatagram("check"))
		backend.Next(t)
		u.NextConnection(t).Expect(t, "command", "local", "level", "debug", "protocol", "udp")
		lb.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "question"))
		backend.Next(t)
		u.NextConnection(t).Expect(t, "command", "proxy", "level", "info", "protocol", "udp")
	})
}
