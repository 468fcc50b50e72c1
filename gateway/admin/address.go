package admin

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"unproxy/gateway/config"
)

// Address is the address of an endpoint: TCP or a unix socket. The zero
// value means that there is no endpoint.
type Address struct {
	TCP netip.AddrPort
	// Path is the path of a unix socket. A path that begins with @ is in the
	// abstract namespace (unix(7)), where sockets have no file mode.
	Path string
}

// IsZero reports whether a is the zero value.
func (a Address) IsZero() bool { return a == Address{} }

// String returns the address as [ParseAddress] takes it.
func (a Address) String() string {
	if a.Path != "" {
		return "unix:" + a.Path
	}
	return a.TCP.String()
}

// HasFile reports whether a is a unix socket with a file.
func (a Address) HasFile() bool { return a.Path != "" && !strings.HasPrefix(a.Path, "@") }

// network returns a in the terms of package net.
func (a Address) network() (network, address string) {
	if a.Path != "" {
		return "unix", a.Path
	}
	return "tcp", a.TCP.String()
}

// Exposure says who can connect to a beyond what its operator expects: "from
// other hosts", or "by every user of this host" for an abstract unix socket, which has no
// file mode. It is "" for a loopback address and for a socket with a path.
func (a Address) Exposure() string {
	switch {
	case strings.HasPrefix(a.Path, "@"):
		return "by every user of this host"
	case a.Path == "" && !a.TCP.Addr().IsLoopback():
		return "from other hosts"
	}
	return ""
}

// ParseAddress parses the value of the flag --admin: HOST:PORT, with an IP address
// as host, or unix:PATH. The endpoint has no authentication, so an address with an
// [Address.Exposure] is an error unless insecure is true. The error is a
// [*config.Problem].
func ParseAddress(text string, insecure bool) (Address, error) {
	a, problem := Control.parse(text)
	if problem == nil && a.Exposure() != "" && !insecure {
		problem = a.exposed(text)
	}
	if problem != nil {
		return Address{}, problem
	}
	return a, nil
}

// ParseHealth parses the value of the flag --health, which may be any address in the
// form of --admin. The error is a [*config.Problem].
func ParseHealth(text string) (Address, error) {
	a, problem := Probes.parse(text)
	if problem != nil {
		return Address{}, problem
	}
	return a, nil
}

// exposed returns the problem of an address with an exposure.
func (a Address) exposed(text string) *config.Problem {
	message := fmt.Sprintf("--admin %q is reachable from other hosts, which could then cut connections", text)
	hint := fmt.Sprintf("listen on this host only, --admin 127.0.0.1:%d or --admin %s; for health checks and metrics "+
		"from other hosts, --health %s", a.TCP.Port(), Control.socket(), a)
	if a.Path != "" {
		message = fmt.Sprintf(
			"--admin %q is an abstract socket, reachable by every user of this host, who could then cut connections", text)
		hint = "use a socket with a path, whose mode restricts it: --admin " + Control.socket()
	}
	return config.NewProblem(message, hint+"; or allow it with --admin-insecure")
}

// maxSocketPath is the maximum length of a unix socket's path: sun_path holds 108
// bytes, including a zero at the end (unix(7)).
const maxSocketPath = 107

// parse parses the address of an endpoint, whether or not other hosts can reach it.
func (k Kind) parse(text string) (Address, *config.Problem) {
	fault := func(why, hint string, values ...any) (Address, *config.Problem) {
		hint = fmt.Sprintf("for example "+strings.ReplaceAll(hint, "FLAG", k.Flag()), values...)
		return Address{}, config.NewProblem(fmt.Sprintf("%s %.120q %s", k.Flag(), text, why), hint)
	}
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		switch {
		case path == "" || path == "@":
			return fault("has no path", "FLAG %s", k.socket())
		case len(path) > maxSocketPath:
			why := fmt.Sprintf("has a path of more than %d bytes, the maximum for a unix socket", maxSocketPath)
			return fault(why, "FLAG %s", k.socket())
		}
		return Address{Path: path}, nil
	}
	host, port, found := cutPort(text)
	if !found {
		return fault("is not HOST:PORT or unix:PATH", "FLAG 127.0.0.1:%d", k.port())
	}
	switch host {
	case "":
		host = "[::]" // both address families, as for all other flags
	case "localhost":
		return fault("has a name instead of an IP address", "FLAG 127.0.0.1:%d", port)
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if err != nil || addr.Zone() != "" || addr.Is6() != strings.HasPrefix(host, "[") {
		return fault("has no IP address as host", "FLAG 127.0.0.1:%d, or FLAG [::1]:%d", port, port)
	}
	return Address{TCP: netip.AddrPortFrom(addr.Unmap(), port)}, nil
}

// cutPort splits HOST:PORT at the last colon. found is false if there is no valid
// port.
func cutPort(text string) (host string, port uint16, found bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(text[i+1:], 10, 16)
	return text[:i], uint16(n), err == nil
}
