package admin

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"unproxy/gateway/config"
)

// Address is where an admin endpoint listens: on TCP or on a unix socket. The
// zero value is nowhere.
type Address struct {
	TCP netip.AddrPort
	// Path is that of a unix socket; one that begins with @ is of the
	// abstract namespace (unix(7)), which has no modes.
	Path string
}

// IsZero reports whether a is nowhere.
func (a Address) IsZero() bool { return a == Address{} }

// String returns the address as it is written on the command line.
func (a Address) String() string {
	if a.Path != "" {
		return "unix:" + a.Path
	}
	return a.TCP.String()
}

// network returns the words that package net takes.
func (a Address) network() (network, address string) {
	if a.Path != "" {
		return "unix", a.Path
	}
	return "tcp", a.TCP.String()
}

// IsLocal reports whether only this host can reach a.
func (a Address) IsLocal() bool { return a.Path != "" || a.TCP.Addr().IsLoopback() }

// ParseAddress reads the value of the flag --admin: HOST:PORT with an address
// for its host, or unix:PATH. Whoever reaches the endpoint may cut connections,
// so that anything but this host itself takes insecure. The error is a
// [*config.Problem].
func ParseAddress(text string, insecure bool) (Address, error) {
	a, problem := parse(text)
	if problem == nil && !a.IsLocal() && !insecure {
		problem = config.NewProblem(
			fmt.Sprintf("--admin %q can be reached from other hosts, and whoever reaches it may cut connections", text),
			fmt.Sprintf("keep it to this host, --admin 127.0.0.1:%d or --admin unix:/run/unproxy/admin.sock; if it is meant, add --admin-insecure", a.TCP.Port()))
	}
	if problem != nil {
		return Address{}, problem
	}
	return a, nil
}

// parse reads an address wherever it may be.
func parse(text string) (Address, *config.Problem) {
	fault := func(why, remedy string) (Address, *config.Problem) {
		return Address{}, config.NewProblem(fmt.Sprintf("--admin %.120q %s", text, why), remedy)
	}
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		const longest = 107 // sun_path holds 108 bytes with the zero at its end (unix(7))
		switch {
		case path == "" || path == "@":
			return fault("has no path", "--admin unix:/run/unproxy/admin.sock")
		case len(path) > longest:
			return fault(fmt.Sprintf("is longer than the %d bytes that a unix socket's path may have", longest), "--admin unix:/run/unproxy/admin.sock")
		}
		return Address{Path: path}, nil
	}
	host, port, found := cutPort(text)
	if !found {
		return fault("is not HOST:PORT or unix:PATH", "such as --admin 127.0.0.1:9180")
	}
	switch host {
	case "":
		host = "[::]" // both families, as everywhere
	case "localhost":
		return fault("is a name", fmt.Sprintf("write the address: --admin 127.0.0.1:%d", port))
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if err != nil || addr.Zone() != "" || addr.Is6() != strings.HasPrefix(host, "[") {
		return fault("has no IP address for its host", fmt.Sprintf("such as --admin 127.0.0.1:%d, or --admin [::1]:%d", port, port))
	}
	return Address{TCP: netip.AddrPortFrom(addr.Unmap(), port)}, nil
}

// cutPort cuts a port off, or takes all for it.
func cutPort(text string) (host string, port uint16, found bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(text[i+1:], 10, 16)
	return text[:i], uint16(n), err == nil
}
