package integration_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
)

// Addresses for headers, from the documentation networks.
var (
	client4 = netip.MustParseAddrPort("192.0.2.9:4711")
	dest4   = netip.MustParseAddrPort("198.51.100.1:443")
	client6 = netip.MustParseAddrPort("[2001:db8::9]:4711")
	dest6   = netip.MustParseAddrPort("[2001:db8::1]:443")
)

// plainGateway starts a gateway from 127.0.0.1:2000 to 127.0.0.1:3000 that trusts
// 127.0.0.1, with more flags.
func plainGateway(t *testing.T, flags ...string) *lab.Gateway {
	t.Helper()
	all := []string{"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1"}
	return lab.StartGateway(t, append(all, flags...)...)
}

// unproxy runs a command of the program, which must succeed, and returns its output.
func unproxy(t *testing.T, args ...string) string {
	t.Helper()
	return lab.Output(t, append([]string{lab.Binary(t)}, args...)...)
}

// dialFrom connects from source, an address in the namespace. A deadline bounds all
// reads and writes.
func dialFrom(t *testing.T, source, address string) *net.TCPConn {
	t.Helper()
	dialer := net.Dialer{Timeout: await.Patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(await.Deadline(t))
	return conn.(*net.TCPConn)
}

// write writes all of b.
func write(t *testing.T, conn io.Writer, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatalf("send %d bytes: %v", len(b), err)
	}
}

// wantRead reads exactly the bytes of want.
func wantRead(t *testing.T, conn io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(conn, got)
	if err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// wantClosed reads to the end, which must be a FIN without data before it.
func wantClosed(t *testing.T, conn io.Reader) {
	t.Helper()
	if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
		t.Errorf("read %.100q and %v, want a FIN and no data", got, err)
	}
}

// wantReset reads to the end, which must be an RST without data before it.
func wantReset(t *testing.T, conn io.Reader) {
	t.Helper()
	if got, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
		t.Errorf("read %.100q and %v, want a reset and no data", got, err)
	}
}

// wantEnd reads to the end, which must be a FIN or an RST without data before it.
func wantEnd(t *testing.T, conn io.Reader) {
	t.Helper()
	got, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
		t.Errorf("read %.100q and %v, want a FIN or a reset and no data", got, err)
	}
}

// wantRejected connects from source, sends b, and expects a reset without data. The
// reset can arrive before connect(2) returns. If b is sent, it can arrive before the
// write, and the connection can end in another way.
func wantRejected(t *testing.T, source, address string, b []byte) {
	t.Helper()
	dialer := net.Dialer{Timeout: await.Patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := dialer.Dial("tcp", address)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(await.Deadline(t))
	if b == nil {
		wantReset(t, conn)
		return
	}
	conn.Write(b)
	wantEnd(t, conn)
}

// reset closes the connection with an RST.
func reset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err := conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// haproxyPreamble precedes the sections of each HAProxy configuration.
const haproxyPreamble = `
defaults
  mode tcp
  timeout connect 3m
  timeout client 3m
  timeout server 3m
  timeout check 3m
  unique-id-format id-%ci-%cp
`

// nginxStream starts nginx as a load balancer from listen to target that sends a
// version 1 header.
func nginxStream(t *testing.T, listen, target string) {
	t.Helper()
	lab.Nginx(t, `load_module `+streamModule(t)+`;
events {}
stream { server { listen `+listen+`; proxy_pass `+target+`; proxy_protocol on; } }`, listen)
}

// streamModule returns the path of nginx's stream module.
func streamModule(t *testing.T) string {
	t.Helper()
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err != nil {
		t.Skip("nginx's stream module is not installed")
	}
	return module
}

// webServer starts nginx on the address. It serves /file with size random bytes, which
// are returned.
func webServer(t *testing.T, size int, address string) []byte {
	t.Helper()
	content := make([]byte, size)
	rand.Read(content)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	lab.Nginx(t, `events {}
http { access_log off; `+lab.NginxTemporary+`
  server { listen `+address+`; root `+root+`; } }`, address)
	return content
}

// fetch requests the web server's file over a connection that dial opens.
func fetch(t *testing.T, dial func() net.Conn) []byte {
	t.Helper()
	client := http.Client{
		Timeout: await.Patience,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return dial(), nil },
		},
	}
	response, err := client.Get("http://gateway.test/file")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("response of the web server: %s, %v", response.Status, err)
	}
	return body
}

// redisCarries stores a value of size bytes in the Redis behind conn and reads it back.
func redisCarries(t *testing.T, conn io.ReadWriter, size int) {
	t.Helper()
	value := make([]byte, size)
	rand.Read(value)
	go fmt.Fprintf(conn, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", size, value)
	want := fmt.Appendf(nil, "+OK\r\n$%d\r\n%s\r\n", size, value)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatalf("response of redis: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("redis returned another value; the response begins with %.40q", got)
	}
}

// dialUnix connects to a unix socket once a process listens on it.
func dialUnix(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	var conn net.Conn
	await.Until(t, "a process listens on "+filepath.Base(path), func() (ok bool) {
		var err error
		conn, err = net.Dial("unix", path)
		return err == nil
	})
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(await.Deadline(t))
	return conn.(*net.UnixConn)
}

// ask sends a request to a unix socket and returns the response.
func ask(t *testing.T, path, question string) string {
	t.Helper()
	conn := dialUnix(t, path)
	defer conn.Close()
	write(t, conn, []byte(question))
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// haproxyStats returns the columns of "show stat" (management.txt, section 9.1) for each server, by the name of
// its section and its own: "web/s".
func haproxyStats(t *testing.T, socket string) map[string]map[string]string {
	t.Helper()
	text := ask(t, socket, "show stat -1 4 -1\n")
	r := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "# ")))
	r.FieldsPerRecord = -1
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	all := map[string]map[string]string{}
	for _, row := range rows[1:] {
		columns := map[string]string{}
		for i, name := range rows[0] {
			columns[name] = row[i]
		}
		all[columns["pxname"]+"/"+columns["svname"]] = columns
	}
	return all
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// portOf returns the port of an address as text.
func portOf(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

// udpFile returns a UDP socket to pass to a process.
func udpFile(t *testing.T) *os.File {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
