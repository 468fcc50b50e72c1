package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// fail2ban is a site whose sshd is attacked:
//
//	host 10.8.0.2, 10.8.0.3 ══ 10.8.0.1 haproxy :2200 ──▶ gateway :2000 ──▶ sshd 127.0.0.1:2222
//	                                                                  └─────────┴─▶ one log ──▶ fail2ban
type fail2ban struct {
	*testing.T
	clients *lab.Host
	sshd    *lab.SSHD
	fifo    string // what is written to it becomes lines of the log, in order
	log     string
	dir     string // configuration
	server  *lab.Process
}

// newFail2ban starts all but the gateway and fail2ban.
func newFail2ban(t *testing.T) *fail2ban {
	t.Helper()
	lab.Require(t, "fail2ban-server", "fail2ban-client", "haproxy", "sshd", "ssh", "ssh-keygen", "bash", "nft")
	s := &fail2ban{T: t, dir: filepath.Join(t.TempDir(), "fail2ban")}
	s.clients = lab.NewHost(t, "front0", "10.8.0.2/24", "10.8.0.3/24")
	netns.IP(t, "address add 10.8.0.1/24 dev front0")
	s.fifo, s.log = filepath.Join(t.TempDir(), "fifo"), filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(s.fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.fifo, 0o666); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	lab.Start(t, lab.Command{Name: "bash", Args: []string{"-c", `
		while IFS= read -r line; do
			case $line in "{"*) program='unproxy[9]' ;; *) program='sshd[8]' ;; esac
			printf '%(%b %e %H:%M:%S)T host %s: %s\n' -1 "$program" "${line%$'\r'}" >>` + s.log + `
		done <>` + s.fifo}})
	s.sshd = lab.StartSSHDLogging(t, s.fifo, "127.0.0.1:2222")
	lab.HAProxy(t, haproxyPreamble+`
listen ssh
  bind 10.8.0.1:2200
  server gateway 127.0.0.1:2000 send-proxy-v2
`, "10.8.0.1:2200")
	return s
}

// gateway starts a gateway that writes to the log, too.
func (s *fail2ban) gateway(flags ...string) *lab.Gateway {
	s.Helper()
	program := lab.Script(s, "unproxy", "#!/bin/bash\nexec "+lab.Binary(s)+` "$@" 2> >(exec tee -a `+s.fifo+" >&2)\n")
	flags = append(flags, "--forward", "127.0.0.1:2000=127.0.0.1:2222", "--trust", "127.0.0.1", "--log-level", "info")
	return lab.StartGatewayAs(s, lab.Command{Name: program}, flags...)
}

// start starts fail2ban with Debian's configuration, the files of docs/examples, and a jail.
func (s *fail2ban) start(jail string) {
	s.Helper()
	lab.Shell(s, fmt.Sprintf("cp -r /etc/fail2ban %[1]s; rm -f %[1]s/jail.d/*; cp -r ../docs/examples/fail2ban/* %[1]s; "+
		"rm %[1]s/jail.d/unproxy.conf", s.dir))
	for name, text := range map[string]string{
		"fail2ban.local": "[Definition]\ndbfile = None\nsyslogsocket = none\n",
		"jail.local":     "[DEFAULT]\nusedns = no\n" + jail,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
			s.Fatal(err)
		}
	}
	s.server = lab.Start(s, lab.Command{Name: "fail2ban-server", Args: append(s.options(), "-f", "--logtarget", "STDOUT", "start")})
	s.server.WaitLine(s, "started")
	await.Until(s, "fail2ban answers", func() bool { return strings.Contains(s.client("ping"), "pong") })
}

func (s *fail2ban) options() []string {
	return []string{"-c", s.dir, "-s", filepath.Join(s.dir, "socket"), "-p", filepath.Join(s.dir, "pid")}
}

// client runs fail2ban-client and returns its output.
func (s *fail2ban) client(words ...string) string {
	s.Helper()
	output, _ := lab.Run(s, lab.Command{Name: "fail2ban-client", Args: append(s.options(), words...)})
	return output
}

// login tries to log in from an address of the other host, as a user that does not exist, and returns what
// ssh says.
func (s *fail2ban) login(from string) string {
	s.Helper()
	output, _ := lab.Run(s, s.clients.On(lab.Command{Name: "ssh", Args: []string{
		"-F", "none", "-i", s.sshd.Identity, "-l", "guess", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20", "-b", from, "-p", "2200", "10.8.0.1", "true"}}))
	return output
}

// served reports whether sshd has answered a login.
func (s *fail2ban) served(from string) bool {
	s.Helper()
	return strings.Contains(s.login(from), "Permission denied")
}

// attack fails to log in until fail2ban bans the client for the nth time.
func (s *fail2ban) attack(n int) {
	s.Helper()
	await.Until(s, "the client is banned", func() bool {
		s.login("10.8.0.2")
		return strings.Count(strings.Join(s.server.Lines(), "\n"), "Ban 10.8.0.2") >= n
	})
}

// bans checks that the client alone is banned, until its time is over.
func (s *fail2ban) bans(jail string) {
	s.Helper()
	s.attack(1)
	await.Until(s, "the ban is in force", func() bool { return !s.served("10.8.0.2") })
	// The ban may have ended a login that was in progress. This one begins after it.
	if s.served("10.8.0.2") {
		s.Error("the banned client is served")
	}
	await.Until(s, "another client is served", func() bool { return s.served("10.8.0.3") })
	// A login that is served is a failure, too, and may bring the next ban at once.
	s.client("set", jail, "bantime", "3")
	s.client("set", jail, "unbanip", "10.8.0.2")
	await.Until(s, "the client is served again", func() bool { return s.served("10.8.0.2") })
	s.attack(2)
	await.Until(s, "the ban is over", func() bool { return s.served("10.8.0.2") })
}

// In plain mode sshd knows the gateway alone. The filter of docs/examples finds the client, and its action
// bans the client at the gateway.
func TestFail2banInPlainMode(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newFail2ban(t)
		admin := "unix:" + filepath.Join(t.TempDir(), "admin.sock")
		g := s.gateway("--source-address", "127.0.0.1", "--admin", admin)
		s.start(fmt.Sprintf("[unproxy-sshd]\nenabled = true\nfilter = unproxy-sshd\nbackend = polling\nlogpath = %s\n"+
			"action = unproxy[admin=%s, unproxy=%s]\nmaxretry = 2\n", s.log, admin, lab.Binary(t)))
		s.bans("unproxy-sshd")
		denied := 0
		for _, line := range g.Logged("connection") {
			if line.String("outcome") != "client_denied" {
				continue
			}
			denied++
			if got := line.AddrPort("client").Addr().String(); got != "10.8.0.2" {
				t.Errorf("%s was denied", got)
			}
		}
		if denied == 0 {
			t.Error("no connection ended as client_denied")
		}
	})
}

// In transparent mode sshd's log has the client, and fail2ban's own jail has the firewall reject it. The
// gateway's log says so, and not that the return path is missing.
func TestFail2banInTransparentMode(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newFail2ban(t)
		returnPath(t, "127.0.0.1:2222")
		// The ban also stops the login that is in progress, which would wait for minutes.
		g := s.gateway("--transparent", "--connect-timeout", "2s", "--user-timeout", "2s")
		s.start(fmt.Sprintf("[sshd]\nenabled = true\nport = 2222\nbackend = polling\nlogpath = %s\n"+
			"banaction = nftables-multiport\nmaxretry = 2\n", s.log))
		s.bans("sshd")
		refused := 0
		for _, line := range g.Logged("connection") {
			switch line.String("outcome") {
			case "ok", "reset":
			case "backend_refused", "connect_timeout":
				refused++
				line.Expect(t, "phase", "dial", "transparent", "true", "action", "")
				if got := line.AddrPort("client").Addr().String(); got != "10.8.0.2" {
					t.Errorf("%s was refused: %v", got, line)
				}
			default:
				t.Errorf("logged %v", line)
			}
		}
		if refused == 0 {
			t.Error("no connection of the banned client was refused")
		}
	})
}
