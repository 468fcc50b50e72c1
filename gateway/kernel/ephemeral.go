package kernel

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// PortRange is the ports from First to Last.
type PortRange struct{ First, Last uint16 }

// Contains reports whether a port is in the range.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// String formats the range as ip_local_reserved_ports has it: 8080 or 8080-8090.
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// EphemeralPorts are the ports that the kernel assigns to sockets that connect without
// a bound port, for both IPv4 and IPv6.
type EphemeralPorts struct {
	// Range is net.ipv4.ip_local_port_range.
	Range PortRange
	// Reserved is net.ipv4.ip_local_reserved_ports, which the kernel leaves out. It
	// is sorted and its ranges do not overlap.
	Reserved []PortRange
}

// Contains reports whether the kernel may assign a port.
func (e *EphemeralPorts) Contains(port uint16) bool {
	if !e.Range.Contains(port) {
		return false
	}
	for _, r := range e.Reserved {
		if r.Contains(port) {
			return false
		}
	}
	return true
}

// Reserve returns the value of net.ipv4.ip_local_reserved_ports that reserves more
// ports, in ascending order and without overlaps.
func (e *EphemeralPorts) Reserve(more []PortRange) string {
	all := slices.Concat(e.Reserved, more)
	slices.SortFunc(all, func(a, b PortRange) int { return int(a.First) - int(b.First) })
	var merged []PortRange
	for _, r := range all {
		if n := len(merged); n > 0 && int(r.First) <= int(merged[n-1].Last)+1 {
			merged[n-1].Last = max(merged[n-1].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	texts := make([]string, len(merged))
	for i, r := range merged {
		texts[i] = r.String()
	}
	return strings.Join(texts, ",")
}

// Paths of the kernel parameters in a file system from "/".
const (
	portRangePath     = "proc/sys/net/ipv4/ip_local_port_range"
	reservedPortsPath = "proc/sys/net/ipv4/ip_local_reserved_ports"
)

// ReadEphemeralPorts reads the kernel parameters of this process's network
// namespace (ip-sysctl.rst) from a file system from "/". A missing list of reserved
// ports is empty.
func ReadEphemeralPorts(files fs.FS) (EphemeralPorts, error) {
	text, err := fs.ReadFile(files, portRangePath)
	if err != nil {
		return EphemeralPorts{}, err
	}
	words := strings.Fields(string(text))
	if len(words) != 2 {
		return EphemeralPorts{}, fmt.Errorf("read /%s: %q is not two ports", portRangePath, text)
	}
	var e EphemeralPorts
	if e.Range, err = parseRange(words[0], words[1]); err != nil {
		return EphemeralPorts{}, fmt.Errorf("read /%s: %w", portRangePath, err)
	}
	text, err = fs.ReadFile(files, reservedPortsPath)
	if err != nil {
		return e, nil
	}
	for _, word := range strings.FieldsFunc(string(text), func(c rune) bool { return c == ',' || c == '\n' }) {
		first, last, isRange := strings.Cut(word, "-")
		if !isRange {
			last = first
		}
		r, err := parseRange(first, last)
		if err != nil {
			return EphemeralPorts{}, fmt.Errorf("read /%s: %w", reservedPortsPath, err)
		}
		e.Reserved = append(e.Reserved, r)
	}
	return e, nil
}

func parseRange(first, last string) (PortRange, error) {
	from, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return PortRange{}, err
	}
	to, err := strconv.ParseUint(last, 10, 16)
	return PortRange{uint16(from), uint16(to)}, err
}

// LivePorts are the host's ephemeral ports as of the last [LivePorts.Refresh]. It is
// safe for concurrent use. A nil *LivePorts contains no port.
type LivePorts struct {
	current atomic.Pointer[EphemeralPorts]
}

// NewLivePorts returns the ephemeral ports of this host. Until they can be read, every
// port counts as one.
func NewLivePorts() *LivePorts {
	l := new(LivePorts)
	l.current.Store(&EphemeralPorts{Range: PortRange{1, 1<<16 - 1}})
	l.Refresh()
	return l
}

// Refresh reads the kernel parameters again. If that fails, the ports remain
// unchanged.
func (l *LivePorts) Refresh() {
	if e, err := ReadEphemeralPorts(os.DirFS("/")); err == nil {
		l.current.Store(&e)
	}
}

// Contains reports whether the kernel may assign a port. It does not allocate.
func (l *LivePorts) Contains(port uint16) bool { return l != nil && l.current.Load().Contains(port) }

// IsSelf reports whether a socket whose own address is local, and which was connected
// to remote, is connected to itself. If no program listens on a port of this host
// that the kernel may assign to an outgoing connection, it may assign that one: TCP
// then opens the connection from both ends at once (RFC 9293, section 3.5), and UDP
// sends each datagram back. connect(2) takes the unspecified address as this host.
func IsSelf(local, remote netip.AddrPort) bool {
	to := remote.Addr().Unmap().WithZone("")
	return local.Port() == remote.Port() && (local.Addr().Unmap().WithZone("") == to || to.IsUnspecified())
}
