package integration_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// HAProxy sends the header, and a web server without the PROXY protocol serves a file:
//
//	client 127.0.0.9 ──▶ haproxy 127.0.0.1:1000 ──header──▶ gateway 127.0.0.1:2000 ──▶ nginx :3000
//	client fd00::9   ──▶ haproxy [::1]:1000     ──header──▶ gateway [::1]:2000     ──▶ nginx :3000
func TestHAProxySends(t *testing.T) {
	tests := []struct {
		name, option, version string
		flags                 []string
		uniqueID              bool
	}{
		{"version 1", "send-proxy", "1", nil, false},
		{"version 2", "send-proxy-v2", "2", nil, false},
		{"version 2 with a checksum and a unique id", "send-proxy-v2 proxy-v2-options crc32c,unique-id", "2",
			[]string{"--require-checksum"}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "haproxy", "nginx")
				netns.IP(t, "-6 address add fd00::9/128 dev lo nodad")
				content := webServer(t, 1<<20, "127.0.0.1:3000")
				g := lab.StartGateway(t, append([]string{
					"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--forward", "[::1]:2000=127.0.0.1:3000",
					"--trust", "127.0.0.1", "--trust", "::1"}, test.flags...)...)
				lab.HAProxy(t, haproxyPreamble+`
listen v4
  bind 127.0.0.1:1000
  server s 127.0.0.1:2000 `+test.option+`
listen v6
  bind [::1]:1000
  server s [::1]:2000 `+test.option+"\n", "127.0.0.1:1000", "[::1]:1000")
				for _, path := range []struct{ client, entry, uniqueID string }{
					{"127.0.0.9", "127.0.0.1:1000", "id-127.0.0.9-"},
					{"fd00::9", "[::1]:1000", "id-fd00::9-"},
				} {
					conn := dialFrom(t, path.client, path.entry)
					if body := fetch(t, func() net.Conn { return conn }); !bytes.Equal(body, content) {
						t.Errorf("the file arrived as %d other bytes", len(body))
					}
					uniqueID := ""
					if test.uniqueID {
						uniqueID = path.uniqueID + portOf(conn.LocalAddr())
					}
					g.NextConnection(t).Expect(t, "outcome", "ok", "phase", "relay", "version", test.version,
						"client", conn.LocalAddr().String(), "destination", path.entry, "unique_id", uniqueID)
				}
			})
		})
	}
}

// HAProxy ends TLS and tells who the client is by its certificate, which counts
// only if HAProxy has verified it:
//
//	client, CN=alice ══TLS, SNI mail.test══▶ haproxy :1000 ──header, TLVs──▶ gateway :2000 ──▶ redis :3000
func TestHAProxySendsTLS(t *testing.T) {
	const optional = "verify optional ca-ignore-err all crt-ignore-err all"
	for _, test := range []struct {
		name, verify string
		certificate  func(ours, theirs *authority) []tls.Certificate
		want         []string
	}{
		{"verified", "verify required", func(ours, _ *authority) []tls.Certificate { return []tls.Certificate{ours.issue("alice")} },
			[]string{"tls_verified", "true", "tls_verify_error", "", "tls_cn", "alice", "tls_cn_unverified", ""}},
		{"of another authority", optional, func(_, theirs *authority) []tls.Certificate { return []tls.Certificate{theirs.issue("alice")} },
			[]string{"tls_verified", "false", "tls_verify_error", "21", "tls_cn", "", "tls_cn_unverified", "alice"}},
		{"none", optional, func(_, _ *authority) []tls.Certificate { return nil },
			[]string{"tls_verified", "", "tls_verify_error", "", "tls_cn", "", "tls_cn_unverified", ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "haproxy", "redis-server")
				lab.Redis(t, "127.0.0.1:3000")
				g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--require-checksum")
				ca := newAuthority(t)
				lab.HAProxy(t, haproxyPreamble+fmt.Sprintf(`
listen tls
  bind 127.0.0.1:1000 ssl crt %s ca-file %s %s alpn redis
  server s 127.0.0.1:2000 send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id
`, writePair(t, ca.issue("mail.test")), ca.write(), test.verify), "127.0.0.1:1000")

				certificates := test.certificate(ca, newAuthority(t))
				tcp := dialFrom(t, "127.0.0.9", "127.0.0.1:1000")
				conn := tls.Client(tcp, &tls.Config{
					ServerName: "mail.test",
					RootCAs:    ca.pool(),
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
						if len(certificates) == 0 {
							return &tls.Certificate{}, nil
						}
						return &certificates[0], nil // of whichever authority
					},
					NextProtos: []string{"redis"},
				})
				redisCarries(t, conn, 1<<20)
				conn.Close()
				line := g.NextConnection(t)
				line.Expect(t, "outcome", "ok", "phase", "relay", "version", "2", "client", tcp.LocalAddr().String(),
					"authority", "mail.test", "alpn", "redis", "tls_version", "TLSv1.3",
					"unique_id", "id-127.0.0.9-"+portOf(tcp.LocalAddr()))
				line.Expect(t, test.want...)
			})
		})
	}
}

// The client's address passes through two HAProxies. An SSH session behind them
// tunnels a file from a web server:
//
//	ssh 127.0.0.9 ──▶ haproxy :1000 ──v2──▶ haproxy :1001 ──v2──▶ gateway :2000 ──▶ sshd :3000 ──▶ nginx :4000
func TestHAProxyChain(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy", "nginx", "sshd", "ssh", "curl")
		content := webServer(t, 1<<20, "127.0.0.1:4000")
		sshd := lab.StartSSHD(t, "127.0.0.1:3000")
		g := plainGateway(t)
		lab.HAProxy(t, haproxyPreamble+`
listen outer
  bind 127.0.0.1:1000
  server s 127.0.0.1:1001 send-proxy-v2
listen inner
  bind 127.0.0.1:1001 accept-proxy
  server s 127.0.0.1:2000 send-proxy-v2
`, "127.0.0.1:1000", "127.0.0.1:1001")

		tunnel := lab.Start(t, lab.Command{Name: "ssh", Args: []string{
			"-F", "none", "-i", sshd.Identity, "-l", sshd.User, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
			"-b", "127.0.0.9", "-p", "1000", "-N", "-L", "127.0.0.1:5000:127.0.0.1:4000", "127.0.0.1"}})
		lab.WaitListening(t, "127.0.0.1:5000")
		if body := fetch(t, func() net.Conn { return lab.Dial(t, "127.0.0.1:5000") }); !bytes.Equal(body, content) {
			t.Errorf("the file arrived as %d other bytes", len(body))
		}
		tunnel.Signal(os.Interrupt)
		line := g.NextConnection(t)
		line.Expect(t, "outcome", "ok", "phase", "relay", "version", "2", "destination", "127.0.0.1:1000")
		if got := line.AddrPort("client").Addr().String(); got != "127.0.0.9" {
			t.Errorf("client is %s, want 127.0.0.9", got)
		}
	})
}

// HAProxy's health checks of the gateway succeed, and do not cause warnings in the log:
//
//	haproxy ──check──▶ gateway :2000 ──▶ nginx :3000
func TestHAProxyChecks(t *testing.T) {
	tests := []struct{ name, check string }{
		// With send-proxy the check sends HAProxy's own addresses.
		{"version 1", "server s 127.0.0.1:2000 check inter 200ms send-proxy"},
		// With send-proxy-v2 it sends LOCAL.
		{"version 2 local", "server s 127.0.0.1:2000 check inter 200ms send-proxy-v2"},
		{"version 2 local on a named port", "server s 127.0.0.1:2000 check inter 200ms port 2000 check-send-proxy send-proxy-v2"},
		{"version 2 local with HTTP", "option httpchk GET /file\n  server s 127.0.0.1:2000 check inter 200ms send-proxy-v2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "haproxy", "nginx")
				webServer(t, 10, "127.0.0.1:3000")
				g := plainGateway(t)
				socket := checkingHAProxy(t, test.check)
				for range 3 {
					line := g.NextConnection(t)
					wantMatch(t, line, "outcome", "^(ok|reset)$")
					wantMatch(t, line, "client", "^127.0.0.1:")
				}
				wantUp(t, socket)
			})
		})
	}
}

// A check of another port sends no header by default. HAProxy resets such a connection
// before the gateway accepts it. The connection of another checker is logged at debug
// level:
//
//	haproxy ──check, no header──▶ gateway :2000 ──▶ nginx :3000
//	checker ──connect, close────▶
func TestChecksWithoutHeader(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy", "nginx")
		webServer(t, 10, "127.0.0.1:3000")
		g := plainGateway(t)
		wantUp(t, checkingHAProxy(t, "server s 127.0.0.1:2000 check inter 50ms port 2000 send-proxy-v2"))
		for _, end := range []func(*net.TCPConn){
			func(c *net.TCPConn) { c.Close() },
			func(c *net.TCPConn) { reset(t, c) },
		} {
			conn := lab.Dial(t, "127.0.0.1:2000")
			end(conn)
			g.NextConnection(t).Expect(t, "outcome", "empty", "level", "debug", "peer", conn.LocalAddr().String())
		}
	})
}

// checkingHAProxy starts HAProxy with one server, web/s, and returns the path of its
// statistics socket.
func checkingHAProxy(t *testing.T, server string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "stats")
	lab.HAProxy(t, "global\n  stats socket "+socket+"\n"+haproxyPreamble+
		"listen web\n  bind 127.0.0.1:1000\n  "+server+"\n", "127.0.0.1:1000")
	return socket
}

// wantUp waits until HAProxy's checks find the server up.
func wantUp(t *testing.T, socket string) { t.Helper(); wantState(t, socket, "UP") }

// wantState waits until HAProxy's checks find the server web/s in a state: "UP" or "DOWN", after "UP 1/3" while
// they are not sure.
func wantState(t *testing.T, socket, state string) {
	t.Helper()
	await.Until(t, "haproxy finds the server "+state, func() bool {
		s := haproxyStats(t, socket)["web/s"]
		ok := strings.HasSuffix(s["check_status"], "OK") // "L4OK" and the like once a check has run
		return s["status"] == state && ok == (state == "UP")
	})
}

func wantMatch(t *testing.T, line lab.Line, key, pattern string) {
	t.Helper()
	if got := line.String(key); !regexp.MustCompile(pattern).MatchString(got) {
		t.Errorf("logged %s %q, want %s, in %v", key, got, pattern, line)
	}
}

// A client on a unix socket has no address, so HAProxy sends "PROXY UNKNOWN".
//
//	client ──unix──▶ haproxy ──UNKNOWN──▶ gateway :2000 ──▶ redis :3000
func TestHAProxyUnknown(t *testing.T) {
	for _, policy := range []string{"relay", "reject"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "haproxy", "redis-server")
				lab.Redis(t, "127.0.0.1:3000")
				g := plainGateway(t, "--unknown", policy)
				entry := filepath.Join(t.TempDir(), "entry")
				lab.HAProxy(t, haproxyPreamble+"listen in\n  bind unix@"+entry+"\n  server s 127.0.0.1:2000 send-proxy\n")
				conn := dialUnix(t, entry)
				if policy == "reject" {
					wantEnd(t, conn)
					g.NextConnection(t).Expect(t, "outcome", "no_address", "phase", "dial", "version", "1")
					return
				}
				redisCarries(t, conn, 100)
				conn.Close()
				line := g.NextConnection(t)
				line.Expect(t, "outcome", "ok", "phase", "relay", "version", "1", "client", line.String("peer"))
			})
		})
	}
}

// nginx's stream module sends version 1:
//
//	client 127.0.0.9 ──▶ nginx stream 127.0.0.1:1000 ──v1──▶ gateway :2000 ──▶ redis :3000
//	client fd00::9   ──▶ nginx stream [::1]:1000     ──v1──▶ gateway :2000 ──▶ redis :3000
func TestNginxSends(t *testing.T) {
	for _, path := range []struct{ client, entry string }{
		{"127.0.0.9", "127.0.0.1:1000"},
		{"fd00::9", "[::1]:1000"},
	} {
		t.Run(path.client, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "nginx", "redis-server")
				netns.IP(t, "-6 address add fd00::9/128 dev lo nodad")
				lab.Redis(t, "127.0.0.1:3000")
				g := plainGateway(t)
				nginxStream(t, path.entry, "127.0.0.1:2000")
				conn := dialFrom(t, path.client, path.entry)
				redisCarries(t, conn, 1<<20)
				conn.Close()
				g.NextConnection(t).Expect(t, "outcome", "ok", "phase", "relay", "version", "1",
					"client", conn.LocalAddr().String(), "destination", path.entry)
			})
		})
	}
}

// curl sends the header itself:
//
//	curl 127.0.0.9 ──v1──▶ gateway :2000 ──▶ nginx :3000
func TestCurlSends(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "curl", "nginx")
		content := webServer(t, 200_000, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.0/8")
		file := filepath.Join(t.TempDir(), "got")
		output, code := lab.Run(t, lab.Command{Name: "curl", Args: []string{
			"--silent", "--show-error", "--max-time", "180", "--interface", "127.0.0.9", "--haproxy-protocol",
			"--output", file, "http://127.0.0.1:2000/file"}})
		if code != 0 {
			t.Fatalf("curl: exit code %d: %s", code, output)
		}
		if got := readFile(t, file); !bytes.Equal(got, content) {
			t.Errorf("the file arrived as %d other bytes", len(got))
		}
		line := g.NextConnection(t)
		line.Expect(t, "outcome", "ok", "phase", "relay", "version", "1", "destination", "127.0.0.1:2000")
		wantMatch(t, line, "client", "^127.0.0.9:")
	})
}
