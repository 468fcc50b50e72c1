package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// addresses are the two addresses of a server, and the client that it must see at each.
var addresses = []struct {
	backend string // without the port
	client  netip.AddrPort
}{
	{"127.0.0.1", client4},
	{"[::1]", client6},
}

// test ──header──▶ unproxy ──▶ nginx 127.0.0.1:80, [::1]:80
//
// nginx's access log has the client's address.
func TestTransparentNginx(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx")
		_, dir := lab.Nginx(t, `
			events { }
			http { `+lab.NginxTemporary+`
				log_format client "from $remote_addr port $remote_port: $request";
				access_log logs/access client;
				server { listen 127.0.0.1:80; listen [::1]:80; return 200 "hello $remote_addr\n"; }
			}`, "127.0.0.1:80", "[::1]:80")
		for _, a := range addresses {
			g := transparentGateway(t, a.backend+":80")
			c := lab.Send(t, g.Address(t, 0), headerOf(a.client), []byte("GET /path HTTP/1.0\r\n\r\n"))
			reply, err := io.ReadAll(c)
			if want := fmt.Sprintf("\r\n\r\nhello %s\n", a.client.Addr()); err != nil ||
				!strings.HasSuffix(string(reply), want) {
				t.Errorf("reply %q, %v; want one that ends in %q", reply, err, want)
			}
			c.Close()
			lab.WaitFile(t, filepath.Join(dir, "logs", "access"),
				fmt.Sprintf("from %s port %d: GET /path HTTP/1.0\n", a.client.Addr(), a.client.Port()))
			g.NextConnection(t).Expect(t, "outcome", "ok", "transparent", "true",
				"client", a.client.String(), "backend", a.backend+":80", "source", "")
		}
	})
}

// ssh ──▶ balancer (adds the header) ──▶ unproxy ──▶ sshd 127.0.0.1:2222, [::1]:2222
//
// OpenSSH's log, which fail2ban reads, has the client's address: for a connection that
// only reads the banner, and for a login.
func TestTransparentSSH(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "sshd", "ssh", "ssh-keygen")
		server := lab.StartSSHD(t, "127.0.0.1:2222", "[::1]:2222")
		for _, a := range addresses {
			g := transparentGateway(t, a.backend+":2222")
			silent := netip.AddrPortFrom(a.client.Addr(), 4700)
			c := lab.Send(t, g.Address(t, 0), headerOf(silent))
			wantRead(t, c, "SSH-2.0-OpenSSH")
			c.Close()
			server.WaitLine(t, fmt.Sprintf("Connection from %s port 4700 on ", silent.Addr()))

			balancer := addHeader(t, g.Address(t, 0), headerOf(a.client))
			output := login(t, server, balancer)
			if !strings.HasPrefix(output, "SSH-2.0-OpenSSH") {
				t.Errorf("through ssh came %q, want the banner of the server", output)
			}
			server.WaitLine(t, fmt.Sprintf("Accepted publickey for %s from %s port %d ssh2", server.User, a.client.Addr(),
				a.client.Port()))
		}
	})
}

// login logs in with ssh through address, tunnels a connection to the server itself, and
// returns what the server sends on it.
func login(t *testing.T, server *lab.SSHD, address string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	output, _ := lab.Run(t, lab.Command{Name: "ssh", Stdin: strings.NewReader("not a client\r\n"), Args: []string{
		"-F", "none", "-i", server.Identity, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-W", "127.0.0.1:2222", "-p", port, "-l", server.User, host,
	}})
	return output
}

// addHeader is a load balancer for one connection: it forwards the connection to address
// and sends a header first.
func addHeader(t *testing.T, address string, header []byte) (listens string) {
	t.Helper()
	b := lab.Listen(t, "127.0.0.1:0")
	go func() {
		in := b.Next(t)
		out := lab.Send(t, address, header)
		go func() {
			io.Copy(out, in)
			out.CloseWrite()
		}()
		io.Copy(in, out)
		in.CloseWrite()
	}()
	return b.Addr
}

// test ──header──▶ unproxy ──▶ redis 127.0.0.1:6379, [::1]:6379
//
// Redis's list of clients has the client's address.
func TestTransparentRedis(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "redis-server")
		for _, a := range addresses {
			backend := a.backend + ":6379"
			lab.Redis(t, backend, "--protected-mode", "no")
			g := transparentGateway(t, backend)
			c := lab.Send(t, g.Address(t, 0), headerOf(a.client), []byte("CLIENT LIST\r\n"))
			list := readBulk(t, c)
			if want := fmt.Sprintf(" addr=%s laddr=%s ", a.client, backend); !strings.Contains(list, want) {
				t.Errorf("CLIENT LIST %q, want %q in it", list, want)
			}
		}
	})
}

// readBulk reads a bulk string of Redis.
func readBulk(t *testing.T, c net.Conn) string {
	t.Helper()
	r := bufio.NewReader(c)
	var length int
	if _, err := fmt.Fscanf(r, "$%d\r\n", &length); err != nil {
		t.Fatalf("read a bulk string: %v", err)
	}
	value := make([]byte, length)
	if _, err := io.ReadFull(r, value); err != nil {
		t.Fatalf("read a bulk string of %d bytes: %v", length, err)
	}
	return string(value)
}

// test ──header──▶ unproxy ──▶ redis 127.0.0.1:6379, in protected mode
//
// Without a password Redis accepts clients from localhost only. It must reject the
// client, and a header must not be able to make the client localhost.
func TestTransparentRedisProtected(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "redis-server")
		const backend = "127.0.0.1:6379"
		lab.Redis(t, backend)
		g := transparentGateway(t, backend)
		c := lab.Send(t, g.Address(t, 0), headerOf(client4), []byte("PING\r\n"))
		wantRead(t, c, "-DENIED Redis is running in protected mode")
		c.Close()
		g.NextConnection(t).Expect(t, "client", client4.String(), "transparent", "true")
		for _, source := range []string{"127.0.0.1:4711", "0.0.0.0:4711", "224.0.0.1:4711", "255.255.255.255:4711"} {
			c := lab.Send(t, g.Address(t, 0), append(headerOf(netip.MustParseAddrPort(source)), "PING\r\n"...))
			wantEnd(t, c)
			g.NextConnection(t).Expect(t, "client", source, "outcome", "source_denied")
		}
	})
}
