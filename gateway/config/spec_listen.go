package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
)

// portRange is one or more consecutive ports. low and high are included.
type portRange struct{ low, high uint16 }

// len returns the number of ports.
func (r portRange) len() int { return int(r.high) - int(r.low) + 1 }

// listeners parses LISTEN into f and returns its ports; the zero range for a unix
// socket.
func (p *problems) listeners(f *spec, listen string, expand func(string) (string, error)) portRange {
	text, err := expandTemplates(listen, expand)
	if err != nil {
		p.add(err.Error(),
			"the templates are those of go-sockaddr, such as {{ GetPrivateIP }} or {{ GetInterfaceIP \"eth0\" }}")
		return portRange{}
	}
	f.name = f.scheme() + text
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if p.path("listener", path) {
			f.listeners = []forward.Listener{{Name: f.scheme() + text, Endpoint: forward.Endpoint{Path: path}}}
		}
		return portRange{}
	}
	if name, ok := strings.CutPrefix(text, "systemd:"); ok {
		if f.datagrams {
			p.add("systemd cannot hand over UDP sockets", "listen on HOST:PORT, such as udp://:5300")
			return portRange{}
		}
		if p.activation(name) {
			f.listeners = []forward.Listener{{Name: text, Activation: name}}
		}
		return portRange{}
	}
	host, ports, err := splitPort(text)
	if err != nil {
		p.add(fmt.Sprintf("listener %q %v", value.Shorten(text), err), listenHint(text))
		return portRange{}
	}
	addr, ok := p.listenAddress(text, host)
	if !ok {
		return portRange{}
	}
	for port := int(ports.low); port <= int(ports.high); port++ {
		f.listeners = append(f.listeners, forward.Listener{
			Name:      f.scheme() + host + ":" + strconv.Itoa(port),
			Endpoint:  forward.Endpoint{Addr: netip.AddrPortFrom(addr, uint16(port))},
			DualStack: addr == netip.IPv6Unspecified(),
		})
	}
	return ports
}

// scheme returns the prefix of a listener's name: "udp://", or "" for TCP.
func (f *spec) scheme() string {
	if f.datagrams {
		return "udp://"
	}
	return ""
}

// listenAddress parses the host of a listener; "" is both families. It rejects
// names, which may resolve to several addresses or to another one at the next start.
func (p *problems) listenAddress(text, host string) (netip.Addr, bool) {
	if host == "" {
		return netip.IPv6Unspecified(), true
	}
	addr, err := parseHost(host)
	if err != nil {
		_, port, _ := cutLast(text, ':')
		hint := "write an address, such as 10.0.0.5:" + port + ", or :" + port + " for all"
		if host == "localhost" {
			hint = fmt.Sprintf("write 127.0.0.1:%s, or [::1]:%s", port, port)
		}
		p.add(fmt.Sprintf("listener %q: %q is not an IP address", value.Shorten(text), value.Shorten(host)), hint)
		return netip.Addr{}, false
	}
	if addr.IsMulticast() {
		p.add(fmt.Sprintf("listener %q is a multicast address", text), "")
		return netip.Addr{}, false
	}
	if addr.Zone() != "" {
		p.add(fmt.Sprintf("listener %q has a zone, which is not supported", text),
			"listen on another address of the interface, or on all: :PORT")
		return netip.Addr{}, false
	}
	return addr, true
}

// listenHint returns the hint for a listener without a port.
func listenHint(text string) string {
	if _, err := parsePorts(text); err == nil {
		return "write :" + text + " to listen on all addresses"
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return "add a port: " + netip.AddrPortFrom(a, 8443).String()
	}
	return "a listener is HOST:PORT, :PORT, HOST:LOW-HIGH, unix:PATH or systemd:NAME"
}

// splitPort splits HOST:PORT or HOST:LOW-HIGH. The host keeps the brackets
// of an IPv6 address.
func splitPort(text string) (host string, ports portRange, err error) {
	host, port, found := cutLast(text, ':')
	if !found || strings.HasSuffix(host, ":") || strings.Contains(port, "]") {
		return "", portRange{}, errors.New("has no port")
	}
	bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	if strings.Contains(host, ":") && !bracketed {
		return "", portRange{}, errors.New("is an IPv6 address without brackets, or has two ports")
	}
	ports, err = parsePorts(port)
	return host, ports, err
}

// parsePorts parses PORT or LOW-HIGH.
func parsePorts(text string) (portRange, error) {
	low, high, ranged := strings.Cut(text, "-")
	first, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return portRange{}, fmt.Errorf("has a port %q that is not a number from 0 to 65535", value.Shorten(low))
	}
	if !ranged {
		return portRange{uint16(first), uint16(first)}, nil
	}
	last, err := strconv.ParseUint(high, 10, 16)
	if err != nil {
		return portRange{}, fmt.Errorf("has a port %q that is not a number from 0 to 65535", value.Shorten(high))
	}
	if first == 0 || last < first {
		return portRange{}, fmt.Errorf(
			"has the ports %s: the first must be above 0 and not above the last", value.Shorten(text))
	}
	return portRange{uint16(first), uint16(last)}, nil
}

// parseHost parses an IPv4 address, or an IPv6 address in brackets. It unmaps
// IPv4-mapped addresses.
func parseHost(host string) (netip.Addr, error) {
	inner, bracketed := strings.CutPrefix(host, "[")
	inner = strings.TrimSuffix(inner, "]")
	addr, err := netip.ParseAddr(inner)
	if err == nil && addr.Is4() == bracketed {
		return netip.Addr{}, errors.New("brackets are for IPv6 addresses")
	}
	return addr.Unmap(), err
}

// path checks the path of a unix socket.
func (p *problems) path(what, path string) bool {
	name := fmt.Sprintf("%s %q", what, value.Shorten("unix:"+path))
	switch {
	case strings.HasPrefix(path, "@"):
		p.add(name+" is in the abstract namespace, which has no access modes",
			"write the path of a file: unix:/run/unproxy/"+value.Shorten(path[1:])+".sock")
	case !filepath.IsAbs(path):
		p.add(name+" is not an absolute path", "write unix:/run/unproxy/NAME.sock")
	case len(path) > 107: // sun_path of unix(7) is 108 bytes with its final zero
		p.add(fmt.Sprintf("%s is %d bytes long, the maximum is 107", name, len(path)), "")
	case strings.ContainsRune(path, 0):
		p.add(name+" contains a zero byte", "")
	default:
		return true
	}
	return false
}

// activation checks the name of a systemd socket: FileDescriptorName= allows up to
// 255 printable ASCII characters without colons (systemd.socket(5)).
func (p *problems) activation(name string) bool {
	odd := func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }
	if name != "" && len(name) <= 255 && !strings.ContainsFunc(name, odd) {
		return true
	}
	p.add(fmt.Sprintf("listener %q: systemd does not allow this name", value.Shorten("systemd:"+name)),
		"write systemd:NAME, and FileDescriptorName=NAME in the .socket unit")
	return false
}

// expandTemplates replaces each {{ template }} in a listener by its address, with
// brackets if it is IPv6.
func expandTemplates(listen string, expand func(string) (string, error)) (string, error) {
	var out strings.Builder
	for rest := listen; rest != ""; {
		start := strings.Index(rest, "{{")
		if start < 0 {
			out.WriteString(rest)
			break
		}
		out.WriteString(rest[:start])
		inner, after, closed := strings.Cut(rest[start:], "}}")
		if !closed {
			return "", fmt.Errorf("template %q is never closed", value.Shorten(inner))
		}
		text := inner + "}}"
		rest = after
		host, err := expandOne(text, expand)
		if err != nil {
			return "", err
		}
		if strings.Contains(host, ":") && !strings.HasSuffix(out.String(), "[") {
			host = "[" + host + "]"
		}
		out.WriteString(host)
	}
	return out.String(), nil
}

// expandOne returns the address that a template yields. Exactly one is required.
func expandOne(text string, expand func(string) (string, error)) (string, error) {
	expanded, err := expand(text)
	if err != nil {
		return "", fmt.Errorf("template %s: %w", value.Shorten(text), err)
	}
	words := strings.Fields(expanded)
	if len(words) != 1 {
		return "", fmt.Errorf("template %s yields %d addresses (%q), but exactly one is required",
			value.Shorten(text), len(words), value.Shorten(expanded))
	}
	addr, err := netip.ParseAddr(words[0])
	if err != nil {
		return "", fmt.Errorf("template %s yields %q, which is not an IP address",
			value.Shorten(text), value.Shorten(expanded))
	}
	return addr.String(), nil
}

// cutLast cuts s at the last sep.
func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
