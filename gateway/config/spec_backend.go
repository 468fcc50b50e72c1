package config

import (
	"fmt"
	"net/netip"
	"strings"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
)

// fromHeader is the BACKEND that means the destination in the header.
const fromHeader = "header"

// backends parses BACKEND[,BACKEND...] and adds its backends to each listener of f.
// span is the range of ports that f listens on.
func (p *problems) backends(f *spec, text string, span portRange) {
	if text == "" {
		p.add("has no backend", grammar)
		return
	}
	list := value.Split(text, ',')
	for _, word := range list {
		if word == fromHeader && len(list) > 1 {
			p.add("backend \"header\" cannot be combined with others", "use it alone: LISTEN=header")
			return
		}
		b, ports, ok := p.backend(word)
		if !ok {
			continue
		}
		if ports.len() > 1 && len(f.listeners) > 0 && ports.len() != span.len() {
			p.add(fmt.Sprintf("backend %q has %d ports, the listener has %d", word, ports.len(), span.len()),
				"give both ranges the same length, or the backend a single port")
			continue
		}
		for i := range f.listeners {
			port := ports.low
			if ports.len() > 1 {
				port += uint16(i)
			}
			f.listeners[i].Backends = append(f.listeners[i].Backends, withPort(b, port))
		}
	}
}

// withPort returns b with a port, unless it is a unix socket.
func withPort(b forward.Backend, port uint16) forward.Backend {
	switch {
	case b.Host != "":
		b.Port = port
	case b.Endpoint.Addr.IsValid():
		b.Endpoint.Addr = netip.AddrPortFrom(b.Endpoint.Addr.Addr(), port)
	}
	return b
}

// backend parses one BACKEND. It returns the ports separately.
func (p *problems) backend(word string) (forward.Backend, portRange, bool) {
	if word == fromHeader {
		return forward.Backend{FromHeader: true}, portRange{}, true
	}
	if path, ok := strings.CutPrefix(word, "unix:"); ok {
		return forward.Backend{Endpoint: forward.Endpoint{Path: path}}, portRange{}, p.path("backend", path)
	}
	if strings.Contains(word, "{{") {
		p.add(fmt.Sprintf("backend %q is a template", value.Shorten(word)),
			"templates are for LISTEN; write the backend's address or name")
		return forward.Backend{}, portRange{}, false
	}
	if scheme, rest, ok := strings.Cut(word, "://"); ok {
		p.add(fmt.Sprintf("backend %q has a scheme: %q", value.Shorten(word), value.Shorten(scheme)),
			"bytes are forwarded unchanged; write HOST:PORT: "+value.Shorten(strings.TrimRight(rest, "/")))
		return forward.Backend{}, portRange{}, false
	}
	host, ports, err := splitPort(word)
	if err == nil && ports.low == 0 {
		err = fmt.Errorf("has port 0")
	}
	if err != nil {
		p.add(fmt.Sprintf("backend %q %v", value.Shorten(word), err), backendHint(word))
		return forward.Backend{}, portRange{}, false
	}
	b, ok := p.backendHost(word, host)
	return b, ports, ok
}

// backendHost parses the host of a backend: an address or a name.
func (p *problems) backendHost(word, host string) (forward.Backend, bool) {
	_, port, _ := cutLast(word, ':')
	if host == "" {
		p.add(fmt.Sprintf("backend %q has no host", word), "write 127.0.0.1"+word+" for this host")
		return forward.Backend{}, false
	}
	addr, err := parseHost(host)
	if err != nil {
		if !isName(host) {
			p.add(fmt.Sprintf("backend %q: %q is neither an address nor a host name",
				value.Shorten(word), value.Shorten(host)),
				backendHint(word))
			return forward.Backend{}, false
		}
		return forward.Backend{Host: host}, true
	}
	switch {
	case addr.IsUnspecified():
		p.add(fmt.Sprintf("backend %q is not an address to connect to", word), "write 127.0.0.1:"+port+" for this host")
	case addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		p.add(fmt.Sprintf("backend %q is a multicast or broadcast address", word), "")
	case addr.Zone() != "":
		p.add(fmt.Sprintf("backend %q has a zone, which is not supported", word), "use another address of the backend")
	default:
		return forward.Backend{Endpoint: forward.Endpoint{Addr: netip.AddrPortFrom(addr, 0)}}, true
	}
	return forward.Backend{}, false
}

// backendHint returns the hint for a backend without a port.
func backendHint(word string) string {
	if a, err := netip.ParseAddr(word); err == nil {
		return "add a port: " + strings.TrimSuffix(netip.AddrPortFrom(a, 1).String(), "1") + "PORT"
	}
	if _, err := parsePorts(word); err == nil {
		return "write 127.0.0.1:" + word + " for this host"
	}
	return "a backend is HOST:PORT, NAME:PORT, HOST:LOW-HIGH, unix:PATH or header"
}

// isName reports whether host can be a DNS name. If the last label is a number, it
// is a mistyped IPv4 address (RFC 1123, section 2.1).
func isName(host string) bool {
	name := strings.TrimSuffix(host, ".")
	if name == "" || len(name) > 253 {
		return false
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, c := range []byte(l) {
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
			if !letter && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}
