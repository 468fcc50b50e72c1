package command

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"unproxy/gateway/admin"
	"unproxy/gateway/forward"
)

// protocol is how HAProxy finds out whether a server of a well-known protocol answers.
type protocol struct {
	ports []uint16
	// check are the lines of HAProxy's configuration. They assume that the connection
	// goes through the gateway.
	check []string
	// server is what the server line needs, too.
	server string
}

// connectLine opens the connection of a check, with a LOCAL header if the server line
// says version 2. HAProxy's configuration manual describes all lines of a protocol.
const connectLine = "tcp-check connect send-proxy"

// protocols are the protocols whose servers speak first, or answer a short request.
var protocols = []protocol{
	{ports: []uint16{22}, check: tcpCheck("tcp-check expect rstring ^SSH-2.0")},
	{ports: []uint16{21, 25, 587}, check: tcpCheck("tcp-check expect rstring ^220")}, // FTP, SMTP
	{ports: []uint16{110}, check: tcpCheck("tcp-check expect rstring ^[+]OK")},
	{ports: []uint16{143}, check: tcpCheck(`tcp-check expect rstring "^[*] OK"`)},
	{ports: []uint16{80, 8000, 8008, 8080}, check: tcpCheck(`tcp-check send "HEAD / HTTP/1.0\r\n\r\n"`,
		"tcp-check expect rstring ^HTTP/1")},
	{ports: []uint16{6379}, check: tcpCheck(`tcp-check send "PING\r\n"`, "tcp-check expect rstring ^([+]PONG|-NOAUTH)")},
	{ports: []uint16{11211}, check: tcpCheck(`tcp-check send "version\r\n"`, "tcp-check expect rstring ^VERSION")},
	// An SSLRequest, which the server answers with S or N before any login.
	{ports: []uint16{5432}, check: tcpCheck("tcp-check send-binary 0000000804d2162f",
		"tcp-check expect rbinary ^(53|4E)")},
	// MySQL blocks a host after some connections that end before the login.
	{ports: []uint16{3306}, check: []string{"# the server needs this user, without a password or rights",
		"option mysql-check user haproxy"}},
	{ports: []uint16{443, 465, 636, 853, 990, 993, 995, 8443}, check: []string{"option tcp-check", connectLine + " ssl"},
		server: " verify none"}, // the TLS handshake is with the backend
}

// tcpCheck returns the lines of a check that begin with a connection.
func tcpCheck(lines ...string) []string {
	return append([]string{"option tcp-check", connectLine}, lines...)
}

// protocolOf returns the protocol of the port that a backend listens on, or nil.
func protocolOf(b forward.Backend) *protocol {
	port := b.Port
	if b.Host == "" && b.Endpoint.Addr.IsValid() {
		port = b.Endpoint.Addr.Port()
	}
	for i := range protocols {
		if slices.Contains(protocols[i].ports, port) {
			return &protocols[i]
		}
	}
	return nil
}

// writeHAProxy prints, for each TCP forward, a section of HAProxy's configuration with a
// health check that fails if the backend does not answer. health is where the health
// endpoint listens; the zero value is nowhere.
func writeHAProxy(w io.Writer, all []*forward.Forward, health admin.Address) {
	title := "\nFor haproxy.cfg, with health checks that reach the backends:\n"
	needsAddress := false
	for _, f := range all {
		if f.Datagrams { // HAProxy sends no PROXY header over UDP
			continue
		}
		fmt.Fprintf(w, "%s\nbackend %s\n    mode tcp\n", title, sectionName(f.Label()))
		title = ""
		address := serverAddress(f)
		needsAddress = needsAddress || strings.HasPrefix(address, addressWord)
		lines, options := healthCheck(f, health)
		for _, line := range lines {
			fmt.Fprintf(w, "    %s\n", line)
		}
		fmt.Fprintf(w, "    server gateway %s %s %s\n", address, headerWords(f), options)
	}
	if needsAddress {
		fmt.Fprintf(w, "\nReplace %s by the address of this host that HAProxy connects to.\n", addressWord)
	}
	if title == "" {
		fmt.Fprintln(w)
	}
}

// addressWord stands for an address of this host that the configuration does not name.
const addressWord = "GATEWAY"

// healthCheck returns the lines of a forward's health check, and what the server line
// says about it. The check asks the gateway if that checks its backends. Otherwise it
// speaks the backend's protocol, if that is known.
func healthCheck(f *forward.Forward, health admin.Address) (lines []string, server string) {
	httpchk := "option httpchk GET /readyz?forward=" + escapeQuery(f.Label())
	port := askedAt(f, health)
	var missing []string
	if health.IsZero() {
		missing = append(missing, "--health :9181")
	}
	if f.BackendCheck == 0 {
		missing = append(missing, "--backend-check 2s")
	}
	p := protocolOf(f.Listeners[0].Backends[0])
	closesChecks := f.CloseLocal && !f.Header.RefuseV2
	switch {
	case f.OnDemand || f.HasHeaderBackend(): // the gateway cannot know whether a backend should answer
		lines = []string{"# tests the gateway alone: its backends cannot be checked", httpchk}
		if health.IsZero() {
			lines[0] += "; needs its --health :9181"
		}
		return lines, port
	case len(missing) == 0:
		return []string{httpchk}, port
	case p == nil || closesChecks:
		return []string{"# needs the gateway's " + strings.Join(missing, " "), httpchk}, port
	}
	if f.Transparent || !health.IsZero() {
		gain := either(f.Transparent, "tests the return path", "fails while the gateway drains")
		lines = []string{
			"# with the gateway's " + strings.Join(missing, " ") + ", this " + gain + ", too:",
			"#   " + httpchk, "#   server … " + port,
		}
	}
	server = "check inter 10s" + p.server
	if len(f.Listeners) > 1 {
		server = fmt.Sprintf("check port %d inter 10s%s", f.Listeners[0].Endpoint.Addr.Port(), p.server)
	}
	return append(lines, p.check...), server
}

// askedAt returns the words of a server line for a check that asks the health endpoint.
// A check with a port of its own sends no PROXY header.
func askedAt(f *forward.Forward, health admin.Address) string {
	switch at := health.TCP; {
	case health.Path != "":
		return "check addr unix@" + health.Path
	case health.IsZero():
		return "check port 9181"
	case !at.Addr().IsUnspecified() && f.Listeners[0].Endpoint.Addr.Addr() != at.Addr():
		return fmt.Sprintf("check addr %s port %d", at.Addr(), at.Port())
	case f.HasUnixListener():
		return fmt.Sprintf("check addr 127.0.0.1 port %d", at.Port())
	default:
		return fmt.Sprintf("check port %d", at.Port())
	}
}

// headerWords returns the words of a server line for a header that the forward accepts.
func headerWords(f *forward.Forward) string {
	switch {
	case f.Header.RefuseV2:
		return "send-proxy"
	case f.Header.RequireChecksum:
		return "send-proxy-v2 proxy-v2-options crc32c"
	}
	return "send-proxy-v2"
}

// serverAddress returns where HAProxy connects to for a forward. Without a port, it uses
// the one that the client connected to.
func serverAddress(f *forward.Forward) string {
	l := f.Listeners[0]
	switch at := l.Endpoint.Addr; {
	case l.Activation != "":
		return addressWord + ":PORT"
	case l.Endpoint.IsUnix():
		return "unix@" + l.Endpoint.Path
	case len(f.Listeners) > 1 && at.Addr().IsUnspecified():
		return addressWord
	case len(f.Listeners) > 1 && at.Addr().Is6():
		return at.Addr().String() + ":" // else the last group would be a port
	case len(f.Listeners) > 1:
		return at.Addr().String()
	case at.Addr().IsUnspecified():
		return fmt.Sprintf("%s:%d", addressWord, at.Port())
	default:
		return at.String()
	}
}

// sectionName returns the name of a forward in the characters that HAProxy allows.
func sectionName(forward string) string {
	return "unproxy-" + strings.Map(func(r rune) rune {
		if strings.ContainsRune("-_.:", r) || r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, strings.TrimPrefix(forward, ":"))
}

// escapeQuery escapes a value in a query, except the colon, the slash and the brackets of
// an address, which need no escape there.
func escapeQuery(value string) string {
	return strings.NewReplacer("%3A", ":", "%2F", "/", "%5B", "[", "%5D", "]").Replace(url.QueryEscape(value))
}
