package integration_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"unproxy/integration_test/cgroup"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// example runs a set-up of docs/examples, with its own files. The load balancer is another host, on
// which the client is an address, too:
//
//	lb: client 203.0.113.9 ──▶ 10.0.0.2 ──header──▶ 10.0.0.5 unproxy ──▶ server: the test
type example struct {
	*testing.T
	dir string
	lb  *lab.Host
}

const exampleClient = "203.0.113.9"

func newExample(t *testing.T, name string, needs ...string) *example {
	t.Helper()
	lab.Require(t, needs...)
	e := &example{t, "../docs/examples/" + name, lab.NewHost(t, "lb0", "10.0.0.2/24")}
	netns.IP(t, "address add 10.0.0.5/24 dev lb0")
	e.lb.IP(t, "address add "+exampleClient+"/32 dev lo")
	return e
}

// file copies a file of the example, with pairs of a text in it and what stands for that in the test, and
// returns the path of the copy.
func (e *example) file(name string, pairs ...string) string {
	e.Helper()
	text := string(readFile(e.T, filepath.Join(e.dir, name)))
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			e.Fatalf("%s has no %q", name, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return lab.WriteFile(e.T, name, text)
}

// serve starts a program here and waits until it listens on a TCP address.
func (e *example) serve(address string, words ...string) *lab.Process {
	e.Helper()
	p := lab.Start(e.T, lab.Command{Name: words[0], Args: words[1:]})
	lab.WaitListening(e.T, address)
	return p
}

// balance starts a program on the load balancer's host and waits until it listens on a TCP address.
func (e *example) balance(address string, words ...string) {
	e.Helper()
	lab.Start(e.T, e.lb.On(lab.Command{Name: words[0], Args: words[1:]}))
	e.lb.Do(e.T, func() { lab.WaitListening(e.T, address) })
}

// haproxy starts HAProxy with the example's configuration.
func (e *example) haproxy(address string) {
	e.Helper()
	e.balance(address, "haproxy", "-db", "-f", e.file("haproxy.cfg"))
}

// gateway applies the routes and starts the gateway, as unproxy-routes.service and unproxy.service do.
func (e *example) gateway() *lab.Gateway {
	e.Helper()
	settings := []string{"--env-file", e.file("unproxy.env")}
	unproxy(e.T, append([]string{"routes", "apply"}, settings...)...)
	return lab.StartGateway(e.T, settings...)
}

// fromClient runs a program on the host of the client, which has to succeed, and returns its output.
func (e *example) fromClient(words ...string) string {
	e.Helper()
	return e.lb.Output(e.T, words...)
}

// carried waits for the line of the client's connection, and returns the client's port.
func (e *example) carried(g *lab.Gateway, pairs ...string) uint16 {
	e.Helper()
	line := g.ConnectionOf(e.T, exampleClient)
	line.Expect(e.T, append([]string{"phase", "relay", "transparent", "true", "source", ""}, pairs...)...)
	wantMatch(e.T, line, "peer", `^10\.0\.0\.2:`)
	return line.AddrPort("client").Port()
}

func TestExampleSSH(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		e := newExample(t, "ssh", "haproxy", "sshd", "ssh", "ssh-keygen")
		netns.Sysctl(t, "net.ipv4.ip_unprivileged_port_start", "0") // the test's sshd is not root
		server := lab.StartSSHD(t, "127.0.0.1:22")
		g := e.gateway()
		e.haproxy("10.0.0.2:22")
		// The tunnel, to sshd itself, ends with the standard input.
		banner := e.fromClient("ssh", "-F", "none", "-i", server.Identity, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
			"-o", "LogLevel=ERROR", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-b", exampleClient, "-W", "127.0.0.1:22", "-l", server.User, "10.0.0.2")
		if !strings.HasPrefix(banner, "SSH-2.0-OpenSSH") {
			t.Errorf("through ssh came %q, want the greeting of the server", banner)
		}
		port := e.carried(g, "version", "2", "backend", "127.0.0.1:22")
		server.WaitLine(t, fmt.Sprintf("Accepted publickey for %s from %s port %d ssh2", server.User, exampleClient, port))
	})
}

func TestExampleWeb(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		e := newExample(t, "web", "haproxy", "nginx", "curl")
		site := e.file("site.conf", "/var/log/nginx/clients.log", "logs/clients")
		_, dir := lab.Nginx(t, "events {}\nhttp { "+lab.NginxTemporary+" include "+site+"; }", "127.0.0.1:8080")
		g := e.gateway()
		e.haproxy("10.0.0.2:80")
		page := e.fromClient("curl", "--silent", "--show-error", "--interface", exampleClient, "http://10.0.0.2/")
		if page != "hello "+exampleClient {
			t.Errorf("the page is %q", page)
		}
		e.carried(g, "version", "2", "destination", "10.0.0.2:80")
		lab.WaitFile(t, filepath.Join(dir, "logs/clients"), exampleClient+` - - [`)
	})
}

func TestExampleSMTP(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		e := newExample(t, "smtp", "haproxy", "postfix")
		server := lab.PostfixWith(t, string(readFile(t, e.file("main.cf"))), "127.0.0.1:25")
		g := e.gateway()
		e.haproxy("10.0.0.2:25")
		var conn net.Conn
		e.lb.Do(t, func() { conn = dialFrom(t, exampleClient, "10.0.0.2:25") })
		talkSMTP(t, conn, netip.AddrPort{}) // to relay is refused, which localhost may
		conn.Close()
		server.WaitLine(t, "]: connect from unknown["+exampleClient+"]")
		e.carried(g, "client", conn.LocalAddr().String(), "version", "2")
	})
}

func TestExampleRedis(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		e := newExample(t, "redis", "nginx", "redis-server")
		server := e.serve("127.0.0.1:6379", "redis-server", e.file("redis.conf"), "--save", "", "--dir", t.TempDir())
		g := e.gateway()
		lab.NginxOn(t, e.lb, "load_module "+streamModule(t)+";\nevents {}\ninclude "+e.file("stream.conf")+";")
		e.askRedis(g, server, "version", "1")
	})
}

// askRedis logs in through 10.0.0.2:6379. The server must log the client.
func (e *example) askRedis(g *lab.Gateway, server *lab.Process, pairs ...string) {
	e.Helper()
	var conn net.Conn
	e.lb.Do(e.T, func() { conn = dialFrom(e.T, exampleClient, "10.0.0.2:6379") })
	write(e.T, conn, []byte("PING\r\nAUTH secret\r\nPING\r\n"))
	wantRead(e.T, conn, "-NOAUTH Authentication required.\r\n+OK\r\n+PONG\r\n")
	server.WaitLine(e.T, "Accepted "+conn.LocalAddr().String())
	conn.Close()
	e.carried(g, append(pairs, "client", conn.LocalAddr().String())...)
}

func TestExampleMariaDB(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		e := newExample(t, "mariadb", "haproxy", "mariadbd")
		log := filepath.Join(t.TempDir(), "log")
		lab.MariaDBWith(t, e.file("clients.cnf", "/var/log/mysql/clients.log", log), "127.0.0.1:3306")
		g := e.gateway()
		e.haproxy("10.0.0.2:3306")
		var conn net.Conn
		e.lb.Do(t, func() { conn = dialFrom(t, exampleClient, "10.0.0.2:3306") })
		talkMySQL(t, conn, netip.AddrPort{})
		conn.Close()
		lab.WaitFile(t, log, "Connect\talice@"+exampleClient+" on ")
		e.carried(g, "client", conn.LocalAddr().String(), "version", "2")
	})
}

func TestExampleFTP(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		e := newExample(t, "ftp", "haproxy", "vsftpd", "curl")
		log := lab.VsftpdWith(t, e.file("vsftpd.conf"), "127.0.0.1:21")
		g := e.gateway()
		e.haproxy("10.0.0.2:21")
		for _, passive := range []string{"--epsv", "--disable-epsv"} {
			motd := e.fromClient("curl", "--silent", "--show-error", passive, "--no-ftp-skip-pasv-ip",
				"--interface", exampleClient, "ftp://10.0.0.2/motd")
			if motd != "hello" {
				t.Errorf("%s: the file is %q", passive, motd)
			}
			var control int
			for range 2 { // the control connection and the data connection, in any order
				line := g.ConnectionOf(t, exampleClient)
				line.Expect(t, "transparent", "true", "phase", "relay", "version", "2")
				wantMatch(t, line, "destination", `^10\.0\.0\.2:(21|5000[0-9])$`)
				if line.AddrPort("destination").Port() == 21 {
					control++
				}
			}
			if control != 1 {
				t.Errorf("%s: %d of 2 connections were to port 21", passive, control)
			}
		}
		text := log.WaitLine(t, "OK DOWNLOAD")
		if strings.Count(text, `OK DOWNLOAD: Client "`+exampleClient+`", "/motd"`) != 2 {
			t.Errorf("the server's log is\n%s", text)
		}
	})
}

func TestExampleDNS(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		e := newExample(t, "dns", "dnsdist", "dnsmasq", "kdig")
		server := e.serve("127.0.0.1:53", "dnsmasq", "--no-daemon", "--log-facility=-", "--no-hosts",
			"--conf-file="+e.file("dnsmasq.conf"))
		g := e.gateway()
		e.balance("10.0.0.2:53", "dnsdist", "--supervised", "--disable-syslog", "-C", e.file("dnsdist.conf"))
		server.WaitLine(t, "query[A] www.example.test from 127.0.0.1") // the health check of dnsdist
		for _, protocol := range []string{"+notcp", "+tcp"} {
			answer := e.fromClient("kdig", "+short", protocol, "-b", exampleClient, "@10.0.0.2", "www.example.test")
			if answer != "192.0.2.55" {
				t.Errorf("%s: the answer is %q", protocol, answer)
			}
			port := e.carried(g, "version", "2", "destination", "10.0.0.2:53")
			server.WaitLine(t, fmt.Sprintf("%s/%d query[A] www.example.test from %[1]s", exampleClient, port))
		}
	})
}

func TestExampleTOA(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		e := newExample(t, "toa", "haproxy", "redis-server")
		tree := cgroup.New(t)
		group := tree.Child(t, "gateway")
		backend := lab.NewHost(t, "be0", "10.1.0.9/24")
		netns.IP(t, "address add 10.1.0.5/24 dev be0")
		_, flags, _ := strings.Cut(string(readFile(t, e.dir+"/unproxy-toa.env")), "\nTOA_FLAGS=")
		unproxy(t, append([]string{"toa", "attach", "--cgroup", tree.Path}, strings.Fields(flags)...)...)
		unproxy(t, "toa", "attach", "--gateway", "--cgroup", group.Path) // as toa.conf does
		server := lab.Start(t, backend.On(lab.Command{Name: "redis-server",
			Args: []string{e.file("redis.conf"), "--save", "", "--dir", t.TempDir()}}))
		server.WaitLine(t, "Ready to accept connections")
		g := lab.StartGatewayAs(t, lab.Command{Name: programIn(t, group, lab.Binary(t))}, "--env-file", e.file("unproxy.env"))
		e.haproxy("10.0.0.2:6379")
		e.askRedis(g, server, "toa", "true", "backend", "10.1.0.9:6379")
	})
}

// A fleet: each forward of the file leads to its server.
func TestExampleFleet(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const file = "../docs/examples/unproxy.env"
		servers := lab.NewHost(t, "back0")
		netns.IP(t, "address add 10.0.0.2/8 dev back0")
		g := lab.StartGateway(t, "--env-file", file)
		forward := regexp.MustCompile(`(?m)^  :(\d+)=((10\.[\d.]+):\d+)`)
		forwards := forward.FindAllStringSubmatch(string(readFile(t, file)), -1)
		if len(forwards) < 48 {
			t.Fatalf("found only %d forwards", len(forwards))
		}
		var addresses strings.Builder
		for _, f := range forwards {
			fmt.Fprintf(&addresses, "ip address replace %s/8 dev eth0\n", f[3])
		}
		servers.Shell(t, addresses.String())
		for _, f := range forwards {
			var backend *lab.Backend
			servers.Do(t, func() { backend = lab.Listen(t, f[2]) })
			conn := dialFrom(t, "10.0.0.2", "10.0.0.2:"+f[1])
			write(t, conn, lab.V2(client4, dest4))
			backend.Next(t).Close()
			conn.Close()
			g.NextConnection(t).Expect(t, "forward", ":"+f[1], "client", client4.String(), "backend", f[2])
		}
	})
}
