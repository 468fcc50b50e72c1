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

// socket is a socket of this host that takes what anybody sends: of TCP one that
// listens, of UDP one that is not connected.
type socket struct {
	at    netip.AddrPort
	inode string
}

// The states in which a socket takes what anybody sends (TCP_LISTEN, and the
// TCP_CLOSE of datagram sockets).
const (
	listensTCP  = "0A"
	receivesUDP = "07"
)

// sockets lists the TCP sockets that listen in this network namespace, or the UDP
// sockets that receive (proc_net_tcp.rst). What cannot be read is left out.
func (h Host) sockets(udp bool) []socket {
	table, state := "proc/self/net/tcp", listensTCP
	if udp {
		table, state = "proc/self/net/udp", receivesUDP
	}
	var all []socket
	for _, table := range []string{table, table + "6"} {
		text, err := fs.ReadFile(h.Files, table)
		if err != nil {
			continue // a host without the family has no table
		}
		for line := range strings.Lines(string(text)) {
			if s, ok := parseSocket(line, state); ok {
				all = append(all, s)
			}
		}
	}
	return all
}

// parseSocket reads a line of the table, if it is of a socket in that state.
func parseSocket(line, state string) (socket, bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != state {
		return socket{}, false
	}
	host, port, _ := strings.Cut(fields[1], ":")
	words, err := hex.DecodeString(host)
	if err != nil {
		return socket{}, false
	}
	// 32-bit words, each written as a number of the host's byte order.
	for i := 0; i+4 <= len(words); i += 4 {
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	addr, ok := netip.AddrFromSlice(words)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return socket{}, false
	}
	return socket{netip.AddrPortFrom(addr.Unmap(), uint16(n)), fields[9]}, true
}

// takes reports whether the socket gets what is sent to an address. Of the IPv6
// wildcard that is not certain for IPv4: the table does not tell IPV6_V6ONLY.
func (s socket) takes(a netip.AddrPort) bool {
	if s.at.Port() != a.Port() {
		return false
	}
	here := s.at.Addr()
	return here == a.Addr() || here.IsUnspecified() && (here.Is6() || a.Addr().Is4())
}

// program is a running program.
type program struct {
	pid, name, executable string
}

// String returns the program's name and number.
func (p program) String() string { return fmt.Sprintf("%s (process %s)", p.name, p.pid) }

// owners returns the programs that have sockets open, by the sockets' inodes.
// Those of other users can only be found by root.
func (h Host) owners() map[string]program {
	dirs, err := fs.Glob(h.Files, "proc/[0-9]*/fd")
	if err != nil {
		return nil
	}
	all := map[string]program{}
	for _, dir := range dirs {
		entries, err := fs.ReadDir(h.Files, dir)
		if err != nil {
			continue // gone meanwhile, or somebody else's
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

// program reads a process's name.
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

// isGateway reports whether a program is the one that this process runs, too.
func (h Host) isGateway(p program) bool {
	return p.executable != "" && path.Base(p.executable) == path.Base(h.Executable)
}
