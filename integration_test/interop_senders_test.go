package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// sender is a program that adds a header. It listens on 127.0.0.1:1000 and sends to the gateway,
// 127.0.0.1:2000.
type sender struct {
	name    string
	source  string // a package of Debian, or a module of Go
	version string
	// root: it refuses to run as root, and only root without a user namespace can switch to another user.
	root  bool
	needs []string
	// try has a client at 127.0.0.9 exchange data through the sender with a server behind the gateway, and
	// returns the client's address.
	try func(t *testing.T) net.Addr
	// tlvs are pairs of a key of the log and the value that it sends.
	tlvs []string
}

const goProxyproto = "github.com/pires/go-proxyproto"

func senders() []sender {
	return []sender{
		{"stunnel", "stunnel4", "1", false, []string{"stunnel4"}, tryStunnel, nil},
		{"hitch, version 1", "hitch", "1", true, []string{"hitch"},
			func(t *testing.T) net.Addr { return tryHitch(t, "--write-proxy-v1") }, nil},
		{"hitch, version 2", "hitch", "2", true, []string{"hitch"},
			func(t *testing.T) net.Addr { return tryHitch(t, "--write-proxy-v2") }, nil},
		{"Varnish, version 1", "varnish", "1", false, []string{"varnishd", "gcc", "nginx"},
			func(t *testing.T) net.Addr { return tryVarnish(t, "1") }, nil},
		{"Varnish, version 2", "varnish", "2", false, []string{"varnishd", "gcc", "nginx"},
			func(t *testing.T) net.Addr { return tryVarnish(t, "2") }, nil},
		{"nginx mail", "libnginx-mod-mail", "1", false, []string{"nginx"}, tryNginxMail, nil},
		{"kdig", "knot-dnsutils", "2", false, []string{"kdig", "dnsmasq"}, tryKdig, nil},
		{name: "go-proxyproto, version 1", source: goProxyproto, version: "1",
			try: func(t *testing.T) net.Addr { return tryGoProxyproto(t, 1) }},
		{name: "go-proxyproto, version 2", source: goProxyproto, version: "2",
			try:  func(t *testing.T) net.Addr { return tryGoProxyproto(t, 2) },
			tlvs: []string{"authority", "mail.test", "unique_id", "id-1"}},
	}
}

// client ──▶ sender 127.0.0.1:1000 ──header──▶ gateway 127.0.0.1:2000 ──▶ server 127.0.0.1:3000
//
// The gateway knows the client, and data passes.
func TestInteropSenders(t *testing.T) {
	t.Parallel()
	for _, s := range senders() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			run := netns.Run
			if s.root {
				run = netns.RunAsRoot
			}
			run(t, func(t *testing.T) {
				lab.Require(t, s.needs...)
				g := plainGateway(t)
				client := s.try(t)
				line := g.ConnectionOf(t, client.String())
				line.Expect(t, "phase", "relay", "version", s.version, "destination", "127.0.0.1:1000")
				wantMatch(t, line, "outcome", "^(ok|reset)$")
				line.Expect(t, s.tlvs...)
			})
		})
	}
}

// wantEcho sends data through a TLS sender to an echo server and returns the client's address.
func wantEcho(t *testing.T, ca *authority) net.Addr {
	t.Helper()
	tcp := dialFrom(t, "127.0.0.9", "127.0.0.1:1000")
	conn := tls.Client(tcp, &tls.Config{ServerName: "mail.test", RootCAs: ca.pool()})
	data := bytes.Repeat([]byte("there and back "), 10_000)
	go conn.Write(data)
	wantRead(t, conn, string(data))
	conn.Close()
	return tcp.LocalAddr()
}

func tryStunnel(t *testing.T) net.Addr {
	t.Helper()
	lab.Echo(t, "127.0.0.1:3000")
	ca := newAuthority(t)
	config := lab.WriteFile(t, "stunnel.conf", "foreground = yes\npid =\n[gateway]\naccept = 127.0.0.1:1000\n"+
		"connect = 127.0.0.1:2000\nprotocol = proxy\ncert = "+writePair(t, ca.issue("mail.test"))+"\n")
	lab.Start(t, lab.Command{Name: "stunnel4", Args: []string{config}})
	lab.WaitListening(t, "127.0.0.1:1000")
	return wantEcho(t, ca)
}

func tryHitch(t *testing.T, version string) net.Addr {
	t.Helper()
	lab.Echo(t, "127.0.0.1:3000")
	ca := newAuthority(t)
	lab.Start(t, lab.Command{Name: "hitch", Args: []string{"--frontend=[127.0.0.1]:1000", "--backend=[127.0.0.1]:2000",
		version, "--workers=1", "--user=_hitch", writePair(t, ca.issue("mail.test"))}})
	lab.WaitListening(t, "127.0.0.1:1000")
	return wantEcho(t, ca)
}

func tryVarnish(t *testing.T, version string) net.Addr {
	t.Helper()
	content := webServer(t, 100_000, "127.0.0.1:3000")
	vcl := lab.WriteFile(t, "default.vcl", "vcl 4.1;\nbackend default { .host = \"127.0.0.1\"; .port = \"2000\"; "+
		".proxy_header = "+version+"; }\n")
	lab.Start(t, lab.Command{Name: "varnishd", Args: []string{"-F", "-j", "none", "-n", t.TempDir(), "-f", vcl,
		"-a", "127.0.0.1:1000", "-s", "malloc,10m", "-p", "vsl_space=1M"}})
	lab.WaitListening(t, "127.0.0.1:1000")
	conn := dialFrom(t, "127.0.0.9", "127.0.0.1:1000")
	if body := fetch(t, func() net.Conn { return conn }); !bytes.Equal(body, content) {
		t.Errorf("the file arrived as %d other bytes", len(body))
	}
	return conn.LocalAddr()
}

// tryGoProxyproto sends with the library that load balancers in Go use, version 2 with TLVs.
func tryGoProxyproto(t *testing.T, version byte) net.Addr {
	t.Helper()
	lab.Echo(t, "127.0.0.1:3000")
	header := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(client4),
		net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:1000")))
	if version == 2 {
		tlvs := []proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("mail.test")},
			{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte("id-1")}}
		if err := header.SetTLVs(tlvs); err != nil {
			t.Fatal(err)
		}
	}
	conn := lab.Dial(t, "127.0.0.1:2000")
	if _, err := header.WriteTo(conn); err != nil {
		t.Fatal(err)
	}
	write(t, conn, []byte("there and back"))
	wantRead(t, conn, "there and back")
	conn.Close()
	return net.TCPAddrFromAddrPort(client4)
}

// tryKdig asks a name server. kdig sends the header itself, with addresses of its choice.
func tryKdig(t *testing.T) net.Addr {
	t.Helper()
	lab.Dnsmasq(t, "www.example.test", answer, "127.0.0.1:3000")
	kdig(t, client4, "127.0.0.1:1000", "+tcp")
	return net.TCPAddrFromAddrPort(client4)
}

// kdig asks the gateway, 127.0.0.1:2000, as the client, and must get the answer.
func kdig(t *testing.T, client netip.AddrPort, destination, protocol string) {
	t.Helper()
	named := netip.MustParseAddrPort(destination)
	addresses := fmt.Sprintf("+proxy=%v#%d-%v#%d", client.Addr(), client.Port(), named.Addr(), named.Port())
	got := lab.Output(t, "kdig", "+short", protocol, addresses, "-p", "2000", "@127.0.0.1", "www.example.test")
	if got != answer {
		t.Errorf("kdig %s %s: %q, want %s", protocol, addresses, got, answer)
	}
}

// tryNginxMail logs in to an IMAP server. nginx asks over HTTP which server that is: the gateway.
func tryNginxMail(t *testing.T) net.Addr {
	t.Helper()
	const module = "/usr/lib/nginx/modules/ngx_mail_module.so"
	if _, err := os.Stat(module); err != nil {
		t.Skip("nginx's mail module is not installed")
	}
	serveIMAP(t, "127.0.0.1:3000")
	lab.Nginx(t, `load_module `+module+`;
events {}
http { `+lab.NginxTemporary+` access_log off;
  server { listen 127.0.0.1:9000; location / {
    add_header Auth-Status OK; add_header Auth-Server 127.0.0.1; add_header Auth-Port 2000; return 200; } } }
mail { auth_http 127.0.0.1:9000/; proxy_protocol on; server { listen 127.0.0.1:1000; protocol imap; } }`, "127.0.0.1:1000")
	conn := dialFrom(t, "127.0.0.9", "127.0.0.1:1000")
	talkIMAP(t, conn, client4)
	conn.Close()
	return conn.LocalAddr()
}

// serveIMAP serves one session as nginx leads it: LOGIN with two literals, then what the client sends.
func serveIMAP(t *testing.T, address string) {
	t.Helper()
	b := lab.Listen(t, address)
	go func() {
		c := b.Next(t)
		defer c.Close()
		io.WriteString(c, "* OK ready\r\n")
		r := bufio.NewReader(c)
		for tag := ""; ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSpace(line)
			if first, _, several := strings.Cut(line, " "); several && tag == "" {
				tag = first
			}
			if strings.HasSuffix(line, "}") {
				io.WriteString(c, "+ go on\r\n")
				continue
			}
			fmt.Fprintf(c, "%s OK done\r\n", tag)
			tag = ""
		}
	}()
}
