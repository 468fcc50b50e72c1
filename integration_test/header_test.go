package integration_test

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// The address of the peer alone decides whether it is trusted:
//
//	127.0.0.1  trusted         ──▶ ┐
//	127.0.0.66 untrusted       ──▶ ├ gateway 127.0.0.1:2000, [::]:2001 ──▶ backend :3000
//	127.0.0.77 health checker  ──▶ ┘
func TestPeerClassDecides(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--forward", "[::]:2001=127.0.0.1:3000",
			"--trust", "127.0.0.0/26", "--health-source", "127.0.0.77")
		for _, address := range []string{"127.0.0.1:2000", "127.0.0.1:2001"} {
			// Without data, so the connection ends with a reset only.
			wantRejected(t, "127.0.0.66", address, nil)
			line := g.NextConnection(t)
			line.Expect(t, "outcome", "untrusted", "phase", "trust", "by", "gateway", "client", "")
			wantMatch(t, line, "peer", "^127.0.0.66:")

			wantRejected(t, "127.0.0.66", address, lab.V2(client4, dest4))
			g.NextConnection(t).Expect(t, "outcome", "untrusted")

			conn := dialFrom(t, "127.0.0.77", address)
			wantClosed(t, conn)
			conn.Close()
			g.NextConnection(t).Expect(t, "outcome", "empty", "phase", "trust", "level", "debug",
				"peer", conn.LocalAddr().String(), "client", "", "backend", "")
		}
		if n := backend.Accepted(); n != 0 {
			t.Errorf("%d connections to the backend, want none", n)
		}

		conn := dialFrom(t, "127.0.0.1", "127.0.0.1:2001")
		write(t, conn, append(lab.V2(client4, dest4), "hello"...))
		behind := backend.Next(t)
		wantRead(t, behind, "hello")
		conn.Close()
		behind.Close()
		g.NextConnection(t).Expect(t, "outcome", "ok", "client", client4.String(), "peer", conn.LocalAddr().String())
	})
}

// With --untrusted pass an untrusted peer is the client itself, and a header from it is
// payload.
//
//	127.0.0.66 untrusted ──"PROXY …"──▶ gateway :2000 ──"PROXY …"──▶ backend :3000
func TestUntrustedPass(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--untrusted", "pass")
		conn := dialFrom(t, "127.0.0.66", "127.0.0.1:2000")
		forged := string(lab.V1(client4, dest4))
		write(t, conn, []byte(forged))
		behind := backend.Next(t)
		wantRead(t, behind, forged)
		conn.Close()
		behind.Close()
		g.NextConnection(t).Expect(t, "outcome", "ok", "client", conn.LocalAddr().String(), "version", "0")
	})
}

// A trusted peer without a header is rejected by its first bytes, whatever protocol it
// speaks:
//
//	peer ──GET, ClientHello, SSH-2.0──▶ gateway :2000 ──✗ backend :3000
func TestNoHeader(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--header-timeout", "0")
		for _, first := range []string{"GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "\x16\x03\x01\x02\x00",
			"SSH-2.0-OpenSSH\r\n", "\n", "\r\n"} {
			conn := lab.Dial(t, "127.0.0.1:2000")
			conn.Write([]byte(first))
			if first == "\r\n" { // the beginning of a version 2 header
				conn.CloseWrite()
			}
			wantEnd(t, conn)
			want := "not_proxy"
			if first == "\r\n" {
				want = "truncated"
			}
			g.NextConnection(t).Expect(t, "outcome", want, "phase", "header")
		}
		if n := backend.Accepted(); n != 0 {
			t.Errorf("%d connections to the backend, want none", n)
		}
	})
}

// The complete header has one deadline. It ends a silent peer and one that sends single
// bytes slowly, but not a session whose header was in time.
//
//	peer ──…──▶ gateway :2000, --header-timeout 2s ──▶ backend :3000
func TestHeaderTimeout(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--header-timeout", "2s")
		timely := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		behind := backend.Next(t)

		silent := lab.Dial(t, "127.0.0.1:2000")
		wantEnd(t, silent)
		g.NextConnection(t).Expect(t, "outcome", "header_timeout", "phase", "header", "by", "timeout")

		dripping := lab.Dial(t, "127.0.0.1:2000")
		header := []byte("PROXY UNKNOWN " + strings.Repeat("x", 80) + "\r\n")
		sent := drip(dripping, header, 100*time.Millisecond)
		if sent == len(header) {
			t.Error("a header that took nine seconds was accepted")
		}
		g.NextConnection(t).Expect(t, "outcome", "header_timeout", "phase", "header", "by", "timeout")

		write(t, timely, []byte("still here"))
		wantRead(t, behind, "still here")
		if n := backend.Accepted(); n != 1 {
			t.Errorf("%d connections to the backend, want 1", n)
		}
	})
}

// drip sends b byte by byte until the other side closes the connection, and returns the
// number of bytes sent.
func drip(conn *net.TCPConn, b []byte, pause time.Duration) int {
	ended := make(chan struct{})
	go func() {
		conn.Read(make([]byte, 1))
		close(ended)
	}()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for i := range b {
		select {
		case <-ended:
			return i
		case <-tick.C:
		}
		if _, err := conn.Write(b[i : i+1]); err != nil {
			return i
		}
	}
	return len(b)
}

// Flags that allow or forbid kinds of headers:
//
//	peer ──header──▶ gateway :2000 with flags ──▶ backend :3000
func TestHeaderPolicies(t *testing.T) {
	t.Parallel()
	v1, v2 := string(lab.V1(client4, dest4)), string(lab.V2(client4, dest4))
	local := string(lab.Local())
	long := string(lab.V2(client4, dest4, append([]byte{0xE0, 0, 100}, make([]byte, 100)...)...))
	unknown := "PROXY UNKNOWN\r\n"
	nginx := "PROXY TCP6 2001:db8::9 198.51.100.1 4711 443\r\n"
	tests := []struct {
		name, header string
		flags        []string
		outcome      string
		reason       string
		client       string // "peer" is the address of the peer
	}{
		{"v1 where v2 is accepted", v1, []string{"--accept", "v2"}, "unsupported", "v1 not accepted", ""},
		{"v2 where v2 is accepted", v2, []string{"--accept", "v2"}, "ok", "", client4.String()},
		{"v2 where v1 is accepted", v2, []string{"--accept", "v1"}, "unsupported", "v2 not accepted", ""},
		{"v2 without the checksum that is required", v2, []string{"--require-checksum"}, "bad_checksum", "CRC32C missing", ""},
		{"v1 where a checksum is required", v1, []string{"--require-checksum"}, "bad_checksum", "CRC32C required, and v1 has none", ""},
		{"an IPv4 address in a TCP6 line", nginx, nil, "malformed", "ipv4 address in a TCP6 line", ""},
		{"the same where it is allowed", nginx, []string{"?v1-ipv4-in-tcp6"}, "ok", "", "[2001:db8::9]:4711"},
		{"a source of another family than its line", "PROXY TCP4 ::1 192.0.2.9 1 2\r\n", []string{"--v1-mixed-families"}, "malformed", "ipv4 syntax", ""},
		{"131 bytes", long, []string{"--max-header", "131"}, "ok", "", client4.String()},
		{"131 bytes, one too many", long, []string{"--max-header", "130"}, "too_long", "header longer than allowed", ""},
		{"two headers of two", v1 + v2, []string{"--headers", "2"}, "ok", "", client4.String()},
		{"the second of two names the client", string(lab.V2(client6, dest6)) + v1, []string{"--headers", "2"}, "ok", "", client4.String()},
		{"LOCAL of two", local, []string{"--headers", "2"}, "ok", "", "peer"},
		{"UNKNOWN of two", unknown + v1, []string{"--headers", "2"}, "ok", "", client4.String()},
		{"two headers, the second bad", v1 + "GET /\r\n", []string{"--headers", "2"}, "not_proxy", "no PROXY signature", ""},
		{"LOCAL", local, nil, "ok", "", "peer"},
		{"UNKNOWN", unknown, nil, "ok", "", "peer"},
		{"UNKNOWN rejected", unknown, []string{"--unknown", "reject"}, "no_address", "", ""},
		{"a key of the forward", v1, []string{"?accept=v2"}, "unsupported", "v1 not accepted", ""},
	}
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				forward := "127.0.0.1:0=127.0.0.1:3000"
				flags := test.flags
				if len(flags) > 0 && strings.HasPrefix(flags[0], "?") {
					forward, flags = forward+flags[0], nil
				}
				g := lab.StartGateway(t, append([]string{"--forward", forward, "--trust", "127.0.0.1"}, flags...)...)
				before := backend.Accepted()
				conn := lab.Dial(t, g.Address(t, 0))
				conn.Write([]byte(test.header + "payload"))
				if test.outcome == "ok" {
					conn.CloseWrite()
					behind := backend.Next(t)
					wantRead(t, behind, "payload")
					behind.Close()
					wantClosed(t, conn)
				} else {
					wantEnd(t, conn)
				}
				client := test.client
				if client == "peer" {
					client = conn.LocalAddr().String()
				}
				line := g.NextConnection(t)
				line.Expect(t, "outcome", test.outcome, "client", client)
				if test.reason != "" {
					line.Expect(t, "reason", test.reason)
				}
				if test.outcome != "ok" && backend.Accepted() != before {
					t.Error("the backend was contacted")
				}
			})
		}
	})
}

// With --local close a LOCAL connection is closed with a FIN, and the backend gets no
// health checks:
//
//	load balancer ──LOCAL──▶ gateway :2000, --local close ──✗ backend :3000
func TestLocalClose(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--local", "close")
		conn := lab.Send(t, "127.0.0.1:2000", lab.Local())
		wantClosed(t, conn)
		conn.Close()
		g.NextConnection(t).Expect(t, "outcome", "ok", "version", "2", "backend", "")
		if n := backend.Accepted(); n != 0 {
			t.Errorf("%d connections to the backend, want none", n)
		}
	})
}

// The backend is contacted when the header is complete, and can speak first, as a mail
// or SSH server does:
//
//	peer ──header, byte by byte──▶ gateway :2000 ──▶ sshd :3000, backend :3001
//	     ◀──────────────────banner──────────────────┘
func TestServerSpeaksFirst(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "sshd", "ssh-keygen")
		lab.StartSSHD(t, "127.0.0.1:3000")
		backend := lab.Listen(t, "127.0.0.1:3001")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000-2001=127.0.0.1:3000-3001", "--trust", "127.0.0.1")

		ssh := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		wantRead(t, ssh, "SSH-2.0-")
		ssh.Close()
		g.NextConnection(t).Expect(t, "client", client4.String())

		for _, header := range [][]byte{lab.V1(client4, dest4), lab.V2(client6, dest6)} {
			conn := lab.Dial(t, "127.0.0.1:2001")
			before := backend.Accepted()
			for _, b := range header {
				if backend.Accepted() != before {
					t.Fatalf("the backend was contacted before the header %q was complete", header)
				}
				write(t, conn, []byte{b})
			}
			behind := backend.Next(t)
			write(t, behind, []byte("220 ready\r\n"))
			wantRead(t, conn, "220 ready\r\n")
		}
	})
}

// TLVs about the client's connection appear in the log, quoted if necessary:
//
//	peer ──TLVs──▶ gateway :2000 ──▶ backend :3000
func TestDetails(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t)
		const authority = "a\n{\"\x00\x1b[31m\xff"
		tlvs := tlv(0x02, authority)
		tlvs = append(tlvs, tlv(0xEA, "\x01vpce-08d2bf15fac5001c9")...)
		tlvs = append(tlvs, tlv(0xEE, "\x01\x04\x03\x02\x01")...)
		tlvs = append(tlvs, tlv(0x05, "\x00\x01\xfe\xff")...)
		tlvs = append(tlvs, tlv(0x05, "another")...)
		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4, tlvs...), []byte("x"))
		behind := backend.Next(t)
		wantRead(t, behind, "x")
		conn.Close()
		behind.Close()
		line := g.NextConnection(t)
		line.Expect(t, "aws_vpce", "vpce-08d2bf15fac5001c9", "azure_link", fmt.Sprint(0x01020304),
			"unique_id", "0001feff")
		// What a terminal or a parser might stumble over is quoted.
		if got := line.String("authority"); got != strconv.Quote(authority) {
			t.Errorf("authority %s, want it quoted", got)
		}
	})
}

func tlv(kind byte, value string) []byte {
	return append([]byte{kind, byte(len(value) >> 8), byte(len(value))}, value...)
}
