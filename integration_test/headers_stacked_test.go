package integration_test

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// Two HAProxies in a row each add a header, and each checks what is behind it: the
// outer one's check has its own LOCAL header alone, the inner one's a LOCAL header
// behind the outer one's. Both need the web server's answer to be up:
//
//	client 127.0.0.9 ──▶ haproxy :1001 ──header──▶ haproxy :1000 ──header, header──▶ gateway :2000 ──▶ nginx :3000
//	                     check ────────header────▶               ──header, LOCAL───▶
//	                                               check ──────────LOCAL───────────▶
func TestTwoHAProxiesCheckThroughStackedHeaders(t *testing.T) {
	for _, option := range []string{"send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c"} {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "haproxy", "nginx")
				content := webServer(t, 1000, "127.0.0.1:3000")
				flags := []string{"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--headers", "2"}
				if option != "send-proxy-v2" {
					flags = append(flags, "--require-checksum", "--accept", "v2")
				}
				g := lab.StartGateway(t, flags...)
				check := "option httpchk GET /file\n  server s %s check inter 200ms " + option
				outer := checkingHAProxy(t, fmt.Sprintf(check, "127.0.0.1:2000"))
				wantUp(t, outer)
				inner := t.TempDir() + "/stats"
				lab.HAProxy(t, "global\n  stats socket "+inner+"\n"+haproxyPreamble+
					"listen web\n  bind 127.0.0.1:1001\n  "+fmt.Sprintf(check, "127.0.0.1:1000")+"\n", "127.0.0.1:1001")
				wantUp(t, inner)

				conn := dialFrom(t, "127.0.0.9", "127.0.0.1:1001")
				if body := fetch(t, func() net.Conn { return conn }); !bytes.Equal(body, content) {
					t.Errorf("the file came as %d other bytes", len(body))
				}
				for { // the checks' lines are in between
					line := g.NextConnection(t)
					wantMatch(t, line, "outcome", "^(ok|reset)$")
					if line.String("client") == conn.LocalAddr().String() {
						line.Expect(t, "destination", "127.0.0.1:1001")
						return
					}
				}
			})
		})
	}
}

// HAProxy's check has a checksum if configured, and needs one if the gateway requires it:
//
//	haproxy ──LOCAL──▶ gateway :2000, --require-checksum ──▶ nginx :3000
func TestHAProxyChecksWithRequiredChecksum(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy", "nginx")
		webServer(t, 10, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--require-checksum")
		const check = "option httpchk GET /file\n  server s 127.0.0.1:2000 check inter 200ms "
		wantUp(t, checkingHAProxy(t, check+"send-proxy-v2 proxy-v2-options crc32c"))
		line := g.NextConnection(t)
		line.Expect(t, "version", "2", "client", line.String("peer"))
		wantMatch(t, line, "outcome", "^(ok|reset)$")
	})
}

// Without a correct checksum, LOCAL is refused like every other header:
//
//	load balancer ──LOCAL──▶ gateway :2000, --require-checksum ──✗ backend :3000
func TestLocalWithoutRequiredChecksum(t *testing.T) {
	t.Parallel()
	const fixed = "\r\n\r\n\x00\r\nQUIT\n\x20"
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		for _, local := range []string{"relay", "close"} {
			g := lab.StartGateway(t, "--forward", "127.0.0.1:0=127.0.0.1:3000", "--trust", "127.0.0.1",
				"--require-checksum", "--local", local)
			for _, test := range []struct{ header, reason, offset string }{
				{fixed + "\x00\x00\x00", "CRC32C missing", "16"},
				{fixed + "\x00\x00\x07\x03\x00\x04abcd", "CRC32C mismatch", "23"},
				{fixed + "\x11\x00\x0c123456789012", "CRC32C missing", "28"},
				{string(lab.V1(client4, dest4)), "CRC32C required, and v1 has none", "6"},
			} {
				conn := lab.Dial(t, g.Address(t, 0))
				conn.Write([]byte(test.header + "PING"))
				wantEnd(t, conn)
				g.NextConnection(t).Expect(t, "outcome", "bad_checksum", "phase", "header",
					"reason", test.reason, "offset", test.offset, "backend", "")
			}
		}
		if n := backend.Accepted(); n != 0 {
			t.Errorf("the backend was contacted %d times", n)
		}
	})
}
