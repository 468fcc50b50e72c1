package integration_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// speaker accepts connections on an address until the returned function is called. If
// request is not empty it reads that many bytes, then it sends its line.
func speaker(t *testing.T, address, request, line string) (stop func()) {
	t.Helper()
	l := lab.Serve(t, address, func(c net.Conn) {
		got := make([]byte, len(request))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != request {
			return
		}
		io.WriteString(c, line)
		io.Copy(io.Discard, c)
	})
	return func() { l.Close() }
}

// tlsServer completes TLS handshakes on an address until the returned function is called.
func tlsServer(t *testing.T, address string) (stop func()) {
	t.Helper()
	l, err := tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue("backend.test")}})
	if err != nil {
		t.Fatal(err)
	}
	lab.ServeOn(t, l, func(c net.Conn) {
		bufio.NewReader(c).ReadByte() // handshakes
	})
	return func() { l.Close() }
}

// ended stops a process and waits for its end.
func ended(t *testing.T, p *lab.Process) func() {
	return func() {
		p.Signal(syscall.SIGKILL)
		p.Wait(t)
	}
}

// printedSections returns the sections for HAProxy that "unproxy check" prints, with
// faster checks.
func printedSections(t *testing.T, flags []string) string {
	t.Helper()
	output, code := lab.RunGateway(t, append([]string{"check"}, flags...)...)
	_, sections, found := strings.Cut(output, "\nFor haproxy.cfg, ")
	_, sections, _ = strings.Cut(sections, "\n")
	sections, _, _ = strings.Cut(sections, "\nok: ")
	if code != 0 || !found {
		t.Fatalf("check: exit code %d: %s", code, output)
	}
	sections = strings.NewReplacer("check inter 10s", "check", "check", "check inter 100ms rise 1 fall 1").Replace(
		strings.NewReplacer("tcp-check", "TCP", "mysql-check", "MYSQL").Replace(sections))
	return strings.NewReplacer("TCP", "tcp-check", "MYSQL", "mysql-check").Replace(sections)
}

// The lines that "unproxy check" prints make HAProxy notice a backend that is gone, for
// each protocol that it knows, and also by the gateway's checks of backends:
//
//	haproxy ──▶ gateway 127.0.0.2:22 ──▶ sshd 127.0.0.1:22
//	        ──▶ gateway 127.0.0.2:25 ──▶ SMTP 127.0.0.1:25 …
func TestPrintedHealthChecksReachBackends(t *testing.T) {
	servers := []struct {
		port  string
		start func(t *testing.T, address string) (stop func())
	}{
		{"22", func(t *testing.T, a string) func() { return ended(t, lab.StartSSHD(t, a).Process) }},
		{"6379", func(t *testing.T, a string) func() { return ended(t, lab.Redis(t, a)) }},
		{"80", func(t *testing.T, a string) func() {
			p, _ := lab.Nginx(t, "events {}\nhttp { "+lab.NginxTemporary+" access_log off; server { listen "+a+"; } }", a)
			return ended(t, p)
		}},
		{"443", tlsServer},
		{"21", func(t *testing.T, a string) func() { return speaker(t, a, "", "220 ready\r\n") }},          // RFC 959
		{"25", func(t *testing.T, a string) func() { return speaker(t, a, "", "220 mail ESMTP\r\n") }},     // RFC 5321
		{"110", func(t *testing.T, a string) func() { return speaker(t, a, "", "+OK POP3\r\n") }},          // RFC 1939
		{"143", func(t *testing.T, a string) func() { return speaker(t, a, "", "* OK [CAPABILITY]\r\n") }}, // RFC 3501
		{"11211", func(t *testing.T, a string) func() { return speaker(t, a, "version\r\n", "VERSION 1.6.18\r\n") }},
		// SSLRequest in section 55.7 of PostgreSQL's documentation
		{"5432", func(t *testing.T, a string) func() { return speaker(t, a, "\x00\x00\x00\x08\x04\xd2\x16\x2f", "N") }},
	}
	for _, way := range []struct {
		name, want string
		flags      []string
	}{
		{"by protocol", "option tcp-check", nil},
		{"by the gateway", "option httpchk GET /readyz?forward=127.0.0.2:22",
			[]string{"--health", "127.0.0.1:9181", "--backend-check", "100ms"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "haproxy", "redis-server", "nginx", "sshd")
				// sshd runs without rights over the namespace.
				netns.Sysctl(t, "net.ipv4.ip_unprivileged_port_start", "0")
				flags := append([]string{"--trust", "127.0.0.1"}, way.flags...)
				var stops []func()
				for _, s := range servers {
					stops = append(stops, s.start(t, "127.0.0.1:"+s.port))
					flags = append(flags, "--forward", "127.0.0.2:"+s.port+"=127.0.0.1:"+s.port)
				}
				sections := printedSections(t, flags)
				if !strings.Contains(sections, way.want) {
					t.Errorf("no %q in\n%s", way.want, sections)
				}
				lab.StartGateway(t, append(flags, "--log-level", "info")...)
				stats := filepath.Join(t.TempDir(), "stats")
				lab.HAProxy(t, "global\n  stats socket "+stats+"\n"+haproxyPreamble+sections)
				wantAll(t, stats, len(servers), "UP")
				for _, stop := range stops {
					stop()
				}
				wantAll(t, stats, len(servers), "DOWN")
			})
		})
	}
}

// wantAll waits until the checks find all of n servers in a state.
func wantAll(t *testing.T, stats string, n int, state string) {
	t.Helper()
	var differing []string
	ok := await.For(t, func() bool {
		differing = nil
		all := haproxyStats(t, stats)
		for name, s := range all {
			if s["status"] != state || strings.HasSuffix(s["check_status"], "OK") != (state == "UP") {
				differing = append(differing, name+" "+s["status"]+" "+s["check_status"]+" "+s["last_chk"])
			}
		}
		return len(all) == n && len(differing) == 0
	})
	if !ok {
		t.Fatalf("not all of %d servers are %s: %q", n, state, differing)
	}
}
