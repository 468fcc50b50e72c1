package doctor

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// socket is a socket of this host that receives from any peer: a listening TCP
// socket or an unconnected UDP socket.
type socket struct {
	at    netip.AddrPort
	inode string
}

// States in which a socket receives from any peer: TCP_LISTEN, and TCP_CLOSE for
// datagram sockets (net/tcp_states.h).
const (
	listensTCP  = "0A"
	receivesUDP = "07"
)

// Columns of proc/net/tcp and proc/net/udp (proc_net_tcp.rst, proc_pid_net(5)).
const (
	localColumn  = 1
	remoteColumn = 2
	stateColumn  = 3
	inodeColumn  = 9
)

// sockets returns the listening TCP sockets or the receiving UDP sockets of this
// network namespace. It skips tables that it cannot read, such as those of an
// address family that the host does not support.
func (h Host) sockets(udp bool) []socket {
	table, state := "proc/self/net/tcp", listensTCP
	if udp {
		table, state = "proc/self/net/udp", receivesUDP
	}
	var all []socket
	for _, table := range []string{table, table + "6"} {
		text, err := fs.ReadFile(h.Files, table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if s, ok := parseSocket(line, state); ok {
				all = append(all, s)
			}
		}
	}
	return all
}

// parseSocket parses a line of a table. It reports false if the line is invalid or
// the socket is in another state.
func parseSocket(line, state string) (socket, bool) {
	fields := strings.Fields(line)
	if len(fields) <= inodeColumn || fields[stateColumn] != state {
		return socket{}, false
	}
	at, ok := parseAddress(fields[localColumn])
	return socket{at, fields[inodeColumn]}, ok
}

// parseAddress parses an address and a port of a table. It unmaps the address.
func parseAddress(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	words, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, false
	}
	// The kernel prints the address as 32-bit numbers in host byte order.
	for i := 0; i+4 <= len(words); i += 4 {
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	addr, ok := netip.AddrFromSlice(words)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), true
}

// occupies reports whether the socket keeps a listener from an address.
func (s socket) occupies(at netip.AddrPort) bool {
	return s.receives(at) || at.Addr().IsUnspecified() && s.at.Port() == at.Port()
}

// receives reports whether the socket receives what is sent to a. For the IPv6
// wildcard and an IPv4 address it assumes so: the table does not show IPV6_V6ONLY.
func (s socket) receives(a netip.AddrPort) bool {
	if s.at.Port() != a.Port() {
		return false
	}
	local := s.at.Addr()
	return local == a.Addr() || local.IsUnspecified() && (local.Is6() || a.Addr().Is4())
}

// Columns and the flag of listening sockets in proc/net/unix (proc_pid_net(5)).
const (
	unixFlagsColumn = 3
	unixInodeColumn = 6
	unixPathColumn  = 7
	unixListens     = 1 << 16 // __SO_ACCEPTCON of linux/net.h
)

// unixSocket returns the inode of the unix socket that listens on a path, or "".
func (h Host) unixSocket(at string) string {
	text, err := fs.ReadFile(h.Files, "proc/self/net/unix")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) <= unixPathColumn || fields[unixPathColumn] != at {
			continue
		}
		flags, err := strconv.ParseUint(fields[unixFlagsColumn], 16, 32)
		if err == nil && flags&unixListens != 0 {
			return fields[unixInodeColumn]
		}
	}
	return ""
}

// program is a running program. executable is "" if it cannot be read.
type program struct {
	pid, name, executable string
}

// String returns the program's name and process number.
func (p program) String() string { return fmt.Sprintf("%s (process %s)", p.name, p.pid) }

// owners returns the programs that have sockets open, by the inodes of the
// sockets. Only root can see the sockets of other users.
func (h Host) owners() map[string]program {
	dirs, err := fs.Glob(h.Files, "proc/[0-9]*/fd")
	if err != nil {
		return nil
	}
	all := map[string]program{}
	for _, dir := range dirs {
		entries, err := fs.ReadDir(h.Files, dir)
		if err != nil {
			continue // the process has ended or belongs to another user
		}
		p := h.program(path.Base(path.Dir(dir)))
		for _, e := range entries {
			to, err := fs.ReadLink(h.Files, path.Join(dir, e.Name()))
			inode, isSocket := strings.CutPrefix(to, "socket:[")
			if err == nil && isSocket {
				all[strings.TrimSuffix(inode, "]")] = p
			}
		}
	}
	return all
}

// program reads the name and the executable of a process.
func (h Host) program(pid string) program {
	name, err := fs.ReadFile(h.Files, "proc/"+pid+"/comm")
	if err != nil {
		name = []byte("?")
	}
	executable, err := fs.ReadLink(h.Files, "proc/"+pid+"/exe")
	if err != nil {
		executable = ""
	}
	return program{pid, strings.TrimSpace(string(name)), executable}
}

// isGateway reports whether a program has the same name as this one.
func (h Host) isGateway(p program) bool {
	return p.executable != "" && path.Base(p.executable) == path.Base(h.Executable)
}
