package integration_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// logged is what a server writes about its clients.
type logged interface {
	WaitLine(t testing.TB, text string) string
}

// backend is a server without the PROXY protocol. It listens on 127.0.0.1 and ::1.
type backend struct {
	name, debian, port string
	// root: it switches to another user, which takes root without a user namespace.
	root  bool
	needs []string
	start func(t *testing.T, port string) logged
	// talk has a conversation in which the server serves the client.
	talk func(t *testing.T, c net.Conn, client netip.AddrPort)
	// seen is the server's line about the client: ADDRESS and PORT are the client's.
	seen string
}

// run runs body in namespaces of the kind that a server needs.
func (b backend) run(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if b.root {
		netns.RunAsRoot(t, body)
		return
	}
	netns.Run(t, body)
}

// both returns the addresses on which the servers listen.
func both(port string) []string { return []string{"127.0.0.1:" + port, "[::1]:" + port} }

func backends() []backend {
	return []backend{
		{name: "Postfix", debian: "postfix", port: "2525", root: true, needs: []string{"postfix"},
			start: func(t *testing.T, port string) logged { return lab.Postfix(t, both(port)...) },
			talk:  talkSMTP, seen: "]: connect from unknown[ADDRESS]"},
		{name: "Dovecot", debian: "dovecot-imapd", port: "1430", root: true, needs: []string{"dovecot"},
			start: func(t *testing.T, port string) logged { return lab.Dovecot(t, both(port)...) },
			talk:  talkIMAP, seen: "imap-login: Info: Login: user=<alice>, method=PLAIN, rip=ADDRESS, lip="},
		{name: "PostgreSQL", debian: "postgresql-15", port: "5432", root: true, needs: []string{"setpriv"},
			start: func(t *testing.T, port string) logged { return lab.PostgreSQL(t, port) },
			talk:  talkPostgreSQL, seen: "connection received: host=ADDRESS port=PORT"},
		{name: "MariaDB", debian: "mariadb-server", port: "3306", needs: []string{"mariadbd"},
			start: func(t *testing.T, port string) logged { return lab.MariaDB(t, port) },
			talk:  talkMySQL, seen: "Connect\talice@ADDRESS on "},
		{name: "vsftpd", debian: "vsftpd", port: "2121", root: true, needs: []string{"vsftpd"},
			start: startVsftpd, talk: talkFTP, seen: `CONNECT: Client "ADDRESS"`},
		{name: "slapd", debian: "slapd", port: "3890", needs: []string{"slapd"},
			start: func(t *testing.T, port string) logged { return lab.Slapd(t, both(port)...) },
			talk:  talkLDAP, seen: "ACCEPT from IP=HOST:PORT (IP="},
		{name: "mosquitto", debian: "mosquitto", port: "1883", needs: []string{"mosquitto"},
			start: func(t *testing.T, port string) logged { return lab.Mosquitto(t, port) },
			talk:  talkMQTT, seen: "New connection from ADDRESS:PORT on port 1883."},
		{name: "rsyslog", debian: "rsyslog", port: "5140", needs: []string{"rsyslogd"},
			start: func(t *testing.T, port string) logged { return lab.Rsyslog(t, both(port)...) },
			talk: func(t *testing.T, c net.Conn, _ netip.AddrPort) {
				write(t, c, []byte("<14>Oct 11 22:14:15 host app: hello\n"))
			}, seen: "from ADDRESS: hello"},
	}
}

// test ──header──▶ gateway, transparent ──▶ a server on 127.0.0.1 and ::1
//
// Each server serves clients of both families and logs their addresses.
func TestInteropBackends(t *testing.T) {
	t.Parallel()
	for _, b := range backends() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			b.run(t, func(t *testing.T) {
				lab.Require(t, b.needs...)
				log := b.start(t, b.port)
				for _, a := range addresses {
					g := transparentGateway(t, a.backend+":"+b.port)
					c := lab.Send(t, g.Address(t, 0), headerOf(a.client))
					b.talk(t, c, a.client)
					c.Close()
					log.WaitLine(t, aboutClient(b.seen, a.client))
					g.NextConnection(t).Expect(t, "phase", "relay", "transparent", "true", "client", a.client.String(), "source", "")
				}
			})
		})
	}
}

// aboutClient fills a server's line with the client's address.
func aboutClient(pattern string, client netip.AddrPort) string {
	host := client.Addr().String()
	if client.Addr().Is6() {
		host = "[" + host + "]"
	}
	return strings.NewReplacer("ADDRESS", client.Addr().String(), "HOST", host, "PORT", fmt.Sprint(client.Port())).
		Replace(pattern)
}

// wantLine reads lines until one begins with want, and returns it.
func wantLine(t *testing.T, r *bufio.Reader, want string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("waiting for a line that begins with %q: %v", want, err)
		}
		if strings.HasPrefix(line, want) {
			return line
		}
	}
}

// talkSMTP asks the server to relay, which it does for localhost, but must not for the client.
func talkSMTP(t *testing.T, c net.Conn, _ netip.AddrPort) {
	t.Helper()
	r := bufio.NewReader(c)
	wantLine(t, r, "220 mail.test")
	for _, step := range [][2]string{
		{"HELO client.test", "250 "}, {"MAIL FROM:<a@client.test>", "250 "},
		{"RCPT TO:<b@elsewhere.test>", "554 5.7.1 <b@elsewhere.test>: Relay access denied"},
		{"RCPT TO:<b@mail.test>", "250 "}, {"QUIT", "221 "},
	} {
		fmt.Fprintf(c, "%s\r\n", step[0])
		wantLine(t, r, step[1])
	}
}

func talkIMAP(t *testing.T, c net.Conn, _ netip.AddrPort) {
	t.Helper()
	r := bufio.NewReader(c)
	wantLine(t, r, "* OK ")
	io.WriteString(c, "a LOGIN alice secret\r\n")
	wantLine(t, r, "a OK ")
	io.WriteString(c, "b LOGOUT\r\n")
	wantLine(t, r, "b OK ")
}

// talkPostgreSQL sends a StartupMessage (section 55.7 of PostgreSQL's documentation). pg_hba.conf admits
// the client, and not localhost.
func talkPostgreSQL(t *testing.T, c net.Conn, _ netip.AddrPort) {
	t.Helper()
	body := "\x00\x03\x00\x00user\x00postgres\x00\x00"
	write(t, c, append(binary.BigEndian.AppendUint32(nil, uint32(4+len(body))), body...))
	wantRead(t, c, "R\x00\x00\x00\x08\x00\x00\x00\x00") // AuthenticationOk
}

// talkMySQL logs in by HandshakeResponse41, without a password.
func talkMySQL(t *testing.T, c net.Conn, _ netip.AddrPort) {
	t.Helper()
	packet := func() string {
		header := make([]byte, 4)
		if _, err := io.ReadFull(c, header); err != nil {
			t.Fatalf("a packet of the server: %v", err)
		}
		body := make([]byte, int(header[0])|int(header[1])<<8|int(header[2])<<16)
		if _, err := io.ReadFull(c, body); err != nil {
			t.Fatalf("a packet of the server: %v", err)
		}
		return string(body)
	}
	if greeting := packet(); greeting[0] != 10 {
		t.Fatalf("the greeting is %q", greeting)
	}
	// CLIENT_PROTOCOL_41 and CLIENT_SECURE_CONNECTION, packets of 16 MB, utf8.
	response := "\x00\x82\x00\x00\x00\x00\x00\x01\x21" + strings.Repeat("\x00", 23) + "alice\x00\x00"
	write(t, c, append([]byte{byte(len(response)), 0, 0, 1}, response...))
	if answer := packet(); answer[0] != 0 {
		t.Fatalf("the login is answered by %q", answer)
	}
}

// talkLDAP binds anonymously (RFC 4511, 4.2).
func talkLDAP(t *testing.T, c net.Conn, _ netip.AddrPort) {
	t.Helper()
	write(t, c, []byte("\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00"))
	wantRead(t, c, "\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00")
}

// talkMQTT sends CONNECT and waits for CONNACK (MQTT 3.1.1, 3.1 and 3.2).
func talkMQTT(t *testing.T, c net.Conn, _ netip.AddrPort) {
	t.Helper()
	write(t, c, []byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"))
	wantRead(t, c, "\x20\x02\x00\x00")
}

func startVsftpd(t *testing.T, port string) logged {
	var logs bothLogs
	for _, a := range both(port) {
		logs = append(logs, lab.Vsftpd(t, a, "40000", "40001"))
	}
	return logs
}

// bothLogs are the logs of an IPv4 and an IPv6 server.
type bothLogs []lab.FileLog

func (all bothLogs) WaitLine(t testing.TB, text string) string {
	t.Helper()
	if strings.Contains(text, "192.0.2.") {
		return all[0].WaitLine(t, text)
	}
	return all[1].WaitLine(t, text)
}

// talkFTP fetches a file in passive mode, through a second gateway with the range of the passive ports.
func talkFTP(t *testing.T, c net.Conn, client netip.AddrPort) {
	t.Helper()
	host, listener := "127.0.0.1", "127.0.0.2"
	if client.Addr().Is6() {
		host, listener = "[::1]", "127.0.0.3"
	}
	returnPath(t, host+":40000", host+":40001")
	g := lab.StartGateway(t, "--forward", listener+":40000-40001="+host+":40000-40001", "--trust", "127.0.0.1",
		"--transparent")
	r := bufio.NewReader(c)
	wantLine(t, r, "220 ")
	for _, step := range [][2]string{{"USER anonymous", "230 "}, {"EPSV", "229 "}} {
		fmt.Fprintf(c, "%s\r\n", step[0])
		answer := wantLine(t, r, step[1])
		if step[0] != "EPSV" {
			continue
		}
		port := regexp.MustCompile(`\|\|\|(\d+)\|`).FindStringSubmatch(answer)
		if port == nil {
			t.Fatalf("EPSV is answered by %q", answer)
		}
		data := lab.Send(t, listener+":"+port[1], headerOf(netip.AddrPortFrom(client.Addr(), client.Port()+1)))
		io.WriteString(c, "RETR motd\r\n")
		wantRead(t, data, "hello\n")
		data.Close()
		wantLine(t, r, "226 ")
	}
	g.NextConnection(t).Expect(t, "phase", "relay", "transparent", "true")
}
