package doctor

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"unproxy/gateway/kernel"
)

// connection is a socket of this host that is connected, or was and is in TIME_WAIT. It
// has its local port, although nothing listens there.
type connection struct {
	local, remote netip.AddrPort
	timeWait      bool
	inode         string // "0" in TIME_WAIT
}

// String returns both ends.
func (c connection) String() string { return fmt.Sprintf("%s to %s", c.local, c.remote) }

// timeWait is TCP_TIME_WAIT (net/tcp_states.h).
const timeWait = "06"

// connectedStates are the states of sockets that have a remote end and a port of their
// own (net/tcp_states.h): ESTABLISHED, SYN_SENT, FIN_WAIT1 and 2, TIME_WAIT, CLOSE_WAIT,
// LAST_ACK and CLOSING. SYN_RECV is not among them: its listener has the port.
var connectedStates = []string{"01", "02", "04", "05", timeWait, "08", "09", "0B"}

// connections returns the connected sockets with a local port.
func (h Host) connections(udp bool, port uint16) []connection {
	table := "proc/self/net/tcp"
	if udp {
		table = "proc/self/net/udp"
	}
	var all []connection
	for _, table := range []string{table, table + "6"} {
		text, err := fs.ReadFile(h.Files, table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if c, ok := parseConnection(line); ok && c.local.Port() == port {
				all = append(all, c)
			}
		}
	}
	return all
}

// parseConnection parses a line of a table. It reports false if the line is invalid or
// the socket is not connected.
func parseConnection(line string) (connection, bool) {
	fields := strings.Fields(line)
	if len(fields) <= inodeColumn || !slices.Contains(connectedStates, fields[stateColumn]) {
		return connection{}, false
	}
	local, ok := parseAddress(fields[localColumn])
	remote, ok2 := parseAddress(fields[remoteColumn])
	return connection{local, remote, fields[stateColumn] == timeWait, fields[inodeColumn]}, ok && ok2
}

// holds reports whether a connection prevents a listener from binding to an address. An
// IPv4 connection does so for the IPv6 wildcard only if the listener is dual-stack, which
// is assumed.
func (c connection) holds(at netip.AddrPort) bool {
	if c.local.Port() != at.Port() {
		return false
	}
	return at.Addr() == c.local.Addr() || at.Addr().IsUnspecified() && (at.Addr().Is6() || c.local.Addr().Is4())
}

// Holder is the program or the connection that uses the address of a listener that could
// not be opened.
type Holder struct {
	// Text describes it in one sentence: a program that listens, or a connection. It is
	// "" if nothing was found.
	Text string
	// Connection means that nothing listens, but a connection uses the port.
	Connection bool
	// Hint is what to do about a connection, one shell command or "#" comment per
	// element.
	Hint []string
}

// Holder finds what uses an address of this host. It reads proc/net and, if permitted,
// the descriptors of other programs.
func (h Host) Holder(at netip.AddrPort, udp bool) Holder {
	owners := h.owners()
	for _, s := range h.sockets(udp) {
		if s.occupies(at) {
			if p, known := owners[s.inode]; known {
				return Holder{Text: fmt.Sprintf("%s listens on %s", p, s.at)}
			}
			return Holder{Text: fmt.Sprintf("a program listens on %s", s.at)}
		}
	}
	for _, c := range h.connections(udp, at.Port()) {
		if c.holds(at) {
			return h.heldBy(c, owners)
		}
	}
	return Holder{}
}

// HolderOfPath finds the program that listens on a unix socket, or what else the file is.
func (h Host) HolderOfPath(at string) Holder {
	inode := h.unixSocket(at)
	if inode == "" {
		info, err := fs.Lstat(h.Files, fsPath(at))
		if err == nil && info.Mode().Type() != fs.ModeSocket {
			return Holder{Text: at + " exists and is not a socket"}
		}
		return Holder{}
	}
	if p, known := h.owners()[inode]; known {
		return Holder{Text: fmt.Sprintf("%s listens on unix:%s", p, at)}
	}
	return Holder{Text: fmt.Sprintf("a program listens on unix:%s: only root can see which", at)}
}

// heldBy describes a connection that has the port of a listener.
func (h Host) heldBy(c connection, owners map[string]program) Holder {
	of, wait := "", "# and wait until that connection has ended"
	if p, known := owners[c.inode]; known {
		of = " of " + p.String()
	}
	if c.timeWait {
		of, wait = ", which has ended,", "# and wait a minute, for the end of its TIME_WAIT"
	}
	holder := Holder{
		Text:       fmt.Sprintf("nothing listens on this address, but the connection %s%s has the port", c, of),
		Connection: true, Hint: []string{wait},
	}
	if ports, err := kernel.ReadEphemeralPorts(h.Files); err == nil && ports.Contains(c.local.Port()) {
		one := []kernel.PortRange{{First: c.local.Port(), Last: c.local.Port()}}
		holder.Hint = []string{reserveCommand(&ports, one), wait}
	}
	return holder
}

// reserveCommand returns the command that keeps the kernel from assigning ports to
// outgoing connections, besides those that are reserved already.
func reserveCommand(ports *kernel.EphemeralPorts, more []kernel.PortRange) string {
	return "sysctl -w net.ipv4.ip_local_reserved_ports=" + ports.Reserve(more)
}
