package lab

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Postfix starts an SMTP server on the addresses. It relays for 127.0.0.0/8 and ::1 alone and
// logs to its output. It switches users: only root without a user namespace can start it.
func Postfix(t testing.TB, addresses ...string) *Process {
	t.Helper()
	return PostfixWith(t, `mynetworks = 127.0.0.0/8 [::1]/128
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_peername_lookup = no
`, addresses...)
}

// PostfixWith is [Postfix] with these settings: who may relay.
func PostfixWith(t testing.TB, settings string, addresses ...string) *Process {
	t.Helper()
	dir := PublicDir(t, 0o755)
	for _, sub := range []string{"etc", "queue", "data"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	Output(t, "chown", "postfix", filepath.Join(dir, "data"))
	master := `postlog unix-dgram n - n - 1 postlogd
rewrite unix - - n - - trivial-rewrite
anvil unix - - n - 1 anvil
cleanup unix n - n - 0 cleanup
`
	for _, a := range addresses {
		master += a + " inet n - n - - smtpd\n"
	}
	writeIn(t, filepath.Join(dir, "etc"), map[string]string{"master.cf": master, "main.cf": `compatibility_level = 3.6
queue_directory = ` + dir + `/queue
data_directory = ` + dir + `/data
maillog_file = /dev/stdout
myhostname = mail.test
mydestination = mail.test
local_recipient_maps =
alias_maps =
` + settings})
	etc := filepath.Join(dir, "etc")
	p := startServer(t, Command{Name: "postfix", Args: []string{"-c", etc, "start-fg"}}, addresses)
	// A signal would end the first process alone. It ends when the others have.
	t.Cleanup(func() { exec.Command(lookPath(t, "postfix"), "-c", etc, "abort").Run() })
	return p
}

// Dovecot starts an IMAP server on the addresses, which have the same port. Every user may log in
// with the password "secret". It logs to its output. It switches users, as [Postfix] does.
func Dovecot(t testing.TB, addresses ...string) *Process {
	t.Helper()
	dir := PublicDir(t, 0o755)
	var hosts []string
	var port string
	for _, a := range addresses {
		host, p, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		hosts, port = append(hosts, host), p
	}
	writeIn(t, dir, map[string]string{"dovecot.conf": `protocols = imap
listen = ` + strings.Join(hosts, ", ") + `
base_dir = ` + dir + `/run
log_path = /dev/stderr
ssl = no
disable_plaintext_auth = no
mail_location = maildir:` + dir + `/mail
first_valid_uid = 1
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid=daemon gid=daemon home=` + dir + `
}
service imap-login {
  inet_listener imap {
    port = ` + port + `
  }
  inet_listener imaps {
    port = 0
  }
}
`})
	return startServer(t, Command{Name: "dovecot", Args: []string{"-F", "-c", filepath.Join(dir, "dovecot.conf")}},
		addresses)
}

// writeIn writes files with their names and contents in dir.
func writeIn(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
