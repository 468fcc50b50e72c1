package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/await"
)

// WaitListening waits until a process in the test's network namespace listens on the
// TCP address. It reads the kernel's table, so the server does not log a connection.
func WaitListening(t testing.TB, address string) {
	t.Helper()
	want, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	await.Until(t, "a process listens on "+address, func() bool { return listening(want) })
}

// listening reports whether a socket listens on a, or on its port on all addresses.
func listening(a netip.AddrPort) bool { return inTable(a, "tcp", "0A") }

// hexAddr formats a as /proc/net/tcp does: 32-bit words, each a number in host byte
// order. Little-endian hosts only.
func hexAddr(a netip.Addr) string {
	var s strings.Builder
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		fmt.Fprintf(&s, "%02X%02X%02X%02X", b[3], b[2], b[1], b[0])
	}
	return s.String()
}

// HAProxy starts HAProxy with the configuration and waits until it listens on the
// addresses.
func HAProxy(t testing.TB, config string, addresses ...string) *Process {
	t.Helper()
	path := WriteFile(t, "haproxy.cfg", config+"\n") // the last line must end
	return startServer(t, Command{Name: "haproxy", Args: []string{"-db", "-f", path}}, addresses)
}

// Nginx starts nginx with the configuration and waits until it listens on the
// addresses. It stays in the foreground and keeps its files in dir: logs/NAME in the
// configuration is relative to it. Modules need their full path.
func Nginx(t testing.TB, config string, addresses ...string) (p *Process, dir string) {
	t.Helper()
	command, dir := nginx(t, config)
	return startServer(t, command, addresses), dir
}

// NginxOn is [Nginx] on another host.
func NginxOn(t testing.TB, h *Host, config string) (p *Process, dir string) {
	t.Helper()
	command, dir := nginx(t, config)
	command.Name = lookPath(t, command.Name)
	p = Start(t, h.On(command))
	// nginx writes its process id once it listens.
	await.For(t, func() bool {
		id, err := os.ReadFile(filepath.Join(dir, "nginx.pid"))
		return err == nil && len(id) > 0 || p.ended()
	})
	if p.ended() {
		t.Fatal("nginx ended before it listened")
	}
	return p, dir
}

// nginx returns the command that runs nginx.
func nginx(t testing.TB, config string) (command Command, dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, sub := range []string{"logs", "body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A single process and no other user: a user namespace has only one.
	config = "daemon off; master_process off; user root root; pid nginx.pid; error_log stderr info;\n" + config
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return Command{Name: "nginx", Args: []string{"-p", dir, "-c", path, "-e", "stderr"}}, dir
}

// NginxTemporary, in an http block, keeps nginx's temporary files in the test's
// directory.
const NginxTemporary = `client_body_temp_path body; proxy_temp_path proxy;
	fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;`

// Redis starts a Redis server on address, without persistence.
func Redis(t testing.TB, address string, args ...string) *Process {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir()},
		args...)
	return startServer(t, Command{Name: "redis-server", Args: args}, []string{address})
}

// SSHD is a running OpenSSH server.
type SSHD struct {
	*Process
	// Identity is the path of a private key that can log in as User.
	Identity string
	User     string
}

// StartSSHD starts an OpenSSH server with keys of its own on the addresses. It logs
// to its output.
//
// It runs as the user "daemon" in a child user namespace. As root it would switch to
// the user "sshd", which the test's namespace lacks; the account "nobody" is locked
// on some systems. The ports must be above 1023.
func StartSSHD(t testing.TB, addresses ...string) *SSHD {
	t.Helper()
	return startSSHD(t, []string{"-e"}, addresses)
}

// StartSSHDLogging is [StartSSHD] with the log in a file, which may be a FIFO. A login may take five
// seconds: one whose packets a firewall drops ends soon.
func StartSSHDLogging(t testing.TB, path string, addresses ...string) *SSHD {
	t.Helper()
	return startSSHD(t, []string{"-E", path, "-o", "LoginGraceTime=5"}, addresses)
}

func startSSHD(t testing.TB, log, addresses []string) *SSHD {
	t.Helper()
	daemon, err := user.Lookup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	identity := filepath.Join(dir, "identity")
	for _, key := range []string{filepath.Join(dir, "host"), identity} {
		Output(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	}
	config := []string{
		"HostKey " + filepath.Join(dir, "host"),
		"AuthorizedKeysFile " + identity + ".pub",
		"PidFile none", "StrictModes no", "UsePAM no", "UseDNS no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no",
		"LogLevel VERBOSE",
	}
	for _, a := range addresses {
		config = append(config, "ListenAddress "+a)
	}
	path := WriteFile(t, "sshd_config", strings.Join(config, "\n")+"\n")
	command := Command{Name: "sshd", Args: append(log, "-D", "-f", path), User: daemon}
	return &SSHD{Process: startServer(t, command, addresses), Identity: identity, User: daemon.Username}
}

func startServer(t testing.TB, c Command, addresses []string) *Process {
	t.Helper()
	c.Name = lookPath(t, c.Name)
	p := Start(t, c)
	for _, a := range addresses {
		want := netip.MustParseAddrPort(a)
		await.For(t, func() bool { return p.ended() || listening(want) })
		if p.ended() {
			t.Fatalf("%s ended before it listened on %s", p.name, a)
		}
		WaitListening(t, a)
	}
	return p
}

// WriteFile writes a file in a temporary directory and returns its path.
func WriteFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Script writes an executable script in a temporary directory and returns its path.
func Script(t testing.TB, name, text string) string {
	t.Helper()
	path := WriteFile(t, name, text)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// PublicDir returns a temporary directory with a mode for other users: 0o755 lets them
// enter, 0o777 write.
func PublicDir(t testing.TB, mode os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// WaitFile waits until the file contains text and returns its content.
func WaitFile(t testing.TB, path, text string) string {
	t.Helper()
	var content []byte
	found := await.For(t, func() bool {
		content, _ = os.ReadFile(path)
		return strings.Contains(string(content), text)
	})
	if !found {
		t.Fatalf("%s does not contain %q: %s", filepath.Base(path), text, content)
	}
	return string(content)
}
