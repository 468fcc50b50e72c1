package lab

import (
	"net"
	"path/filepath"
	"testing"
)

// FileLog is the path of a log that a server writes.
type FileLog string

// WaitLine waits until the log contains text.
func (f FileLog) WaitLine(t testing.TB, text string) string {
	t.Helper()
	return WaitFile(t, string(f), text)
}

// Vsftpd starts an FTP server on the address, for anonymous users, with passive ports from first to
// last. /motd is the only file. It switches users: only root without a user namespace can start it.
func Vsftpd(t testing.TB, address, first, last string) FileLog {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	family := "listen=YES\nlisten_address="
	if net.ParseIP(host).To4() == nil {
		family = "listen=NO\nlisten_ipv6=YES\nlisten_address6="
	}
	return VsftpdWith(t, WriteFile(t, "vsftpd.conf", family+host+`
listen_port=`+port+`
anonymous_enable=YES
no_anon_password=YES
xferlog_enable=YES
xferlog_std_format=NO
log_ftp_protocol=YES
pasv_min_port=`+first+`
pasv_max_port=`+last+`
`), address)
}

// VsftpdWith is [Vsftpd] with the settings in a file, but its own directory and log.
func VsftpdWith(t testing.TB, path, address string) FileLog {
	t.Helper()
	dir := PublicDir(t, 0o755)
	log := filepath.Join(dir, "log")
	writeIn(t, dir, map[string]string{"motd": "hello\n"})
	Output(t, "chown", "root", dir)
	startServer(t, Command{Name: "vsftpd", Args: []string{path, "-obackground=NO", "-oanon_root=" + dir,
		"-osecure_chroot_dir=" + dir, "-ovsftpd_log_file=" + log}}, []string{address})
	return FileLog(log)
}

// Slapd starts an LDAP server without data on the addresses. It logs connections to its output.
func Slapd(t testing.TB, addresses ...string) *Process {
	t.Helper()
	dir := t.TempDir()
	writeIn(t, dir, map[string]string{"slapd.conf": "include /etc/ldap/schema/core.schema\npidfile " + dir + "/pid\n"})
	urls := ""
	for _, a := range addresses {
		urls += "ldap://" + a + " "
	}
	return startServer(t, Command{Name: "slapd", Args: []string{"-d", "256", "-h", urls,
		"-f", filepath.Join(dir, "slapd.conf")}}, addresses)
}

// Mosquitto starts an MQTT server on 127.0.0.1 and ::1. It logs to its output.
func Mosquitto(t testing.TB, port string) *Process {
	t.Helper()
	path := WriteFile(t, "mosquitto.conf", "listener "+port+" 127.0.0.1\nlistener "+port+" ::1\n"+
		"allow_anonymous true\nlog_dest stderr\nuser root\n")
	return startServer(t, Command{Name: "mosquitto", Args: []string{"-c", path}},
		[]string{"127.0.0.1:" + port, "[::1]:" + port})
}

// Rsyslog starts a syslog server on TCP and UDP of the addresses, which have the same port. Its file
// has the sender's address and the message of each line.
func Rsyslog(t testing.TB, addresses ...string) FileLog {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	config := `global(net.enableDNS="off" workDirectory="` + dir + `")
module(load="imtcp")
module(load="imudp")
template(name="client" type="string" string="from %fromhost-ip%:%msg%\n")
action(type="omfile" file="` + log + `" template="client")
`
	for _, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		for _, module := range []string{"imtcp", "imudp"} {
			config += `input(type="` + module + `" address="` + host + `" port="` + port + `")` + "\n"
		}
	}
	writeIn(t, dir, map[string]string{"rsyslog.conf": config})
	startServer(t, Command{Name: "rsyslogd", Args: []string{"-n", "-i", "NONE", "-f", filepath.Join(dir, "rsyslog.conf")}},
		addresses)
	for _, a := range addresses {
		WaitReceiving(t, a)
	}
	return FileLog(log)
}
