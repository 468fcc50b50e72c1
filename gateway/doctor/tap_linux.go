package doctor

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// tap sees the first packet of a connection as it leaves this host, after the
// packet filter may have rewritten its source address (packet(7)). It needs the
// capability CAP_NET_RAW, like the connection itself. While it is open, the kernel
// copies every packet that this host sends for the tap's filter.
//
// Where the kernel refuses the filter, the copies stay in the tap's queue, up to
// queueSize bytes. It keeps the oldest packets, and the first packet of a connection
// comes soon after the tap was opened: it is missing only if this host sends that
// much between the two.
//
// It does not see what other hosts rewrite, or the host of a container that this
// process runs in.
type tap struct {
	fd  int
	to  netip.AddrPort
	mss uint16
}

const (
	// queueSize is the receive buffer of a tap without a filter, as far as the kernel
	// permits (net.core.rmem_max). A small packet takes at least leastCharge of it.
	queueSize   = 1 << 20
	leastCharge = 256
	// mostPackets is how many packets are searched: all that the queue can hold, twice.
	mostPackets = 2 * queueSize / leastCharge
)

// openTap opens a tap for connections to an address. They are recognised by their
// maximum segment size, because a rule may rewrite the port as well.
func openTap(to netip.AddrPort, mss uint16) (*tap, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket AF_PACKET", err)
	}
	t := &tap{fd, to, mss}
	program := synFilter(to)
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queueSize) // the kernel takes less, rather than fail
	}
	// Packets that this host sends reach only taps for all protocols.
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}); err != nil {
		t.close()
		return nil, os.NewSyscallError("bind AF_PACKET", err)
	}
	return t, nil
}

func (t *tap) close() { unix.Close(t.fd) }

// source returns the source address of the connection's first packet, or the zero
// AddrPort if it has not been seen.
func (t *tap) source() netip.AddrPort {
	packet := make([]byte, 128) // headers with all their options
	for range mostPackets {
		n, from, err := unix.Recvfrom(t.fd, packet, 0)
		if err != nil {
			return netip.AddrPort{}
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Pkttype != unix.PACKET_OUTGOING {
			continue // lo delivers every packet a second time
		}
		if !isSYN(packet[:n], t.to) {
			continue
		}
		if source, mss, ok := parseSYN(packet[:n]); ok && mss == t.mss {
			return source
		}
	}
	return netip.AddrPort{}
}

// Offsets in the headers of IPv4 (RFC 791), IPv6 (RFC 8200) and TCP (RFC 9293).
const (
	protocol4, source4, destination4   = 9, 12, 16
	next6, source6, destination6, len6 = 6, 8, 24, 40
	destinationPort, dataOffset, flags = 2, 12, 13
	minTCP                             = 20
	synFlag, ackFlag                   = 0x02, 0x10
)

// synFilter returns the socket filter (bpf(2), classic) for the first packet of a
// connection to an address, from the network header on.
func synFilter(to netip.AddrPort) []unix.SockFilter {
	const (
		load8   = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		load32  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		load8x  = unix.BPF_LD | unix.BPF_B | unix.BPF_IND // relative to the end of the network header
		load16x = unix.BPF_LD | unix.BPF_H | unix.BPF_IND
		header4 = unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH
		set     = unix.BPF_LDX | unix.BPF_IMM
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		and     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		shift   = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
		ret     = unix.BPF_RET | unix.BPF_K
	)
	var p []unix.SockFilter
	do := func(code uint16, k uint32) { p = append(p, unix.SockFilter{Code: code, K: k}) }
	// want drops the packet unless the accumulator is k. The jump is set below.
	want := func(k uint32) { p = append(p, unix.SockFilter{Code: equal, K: k}) }
	address := to.Addr().AsSlice()
	version, protocol, at := uint32(4), uint32(protocol4), destination4
	if to.Addr().Is6() {
		version, protocol, at = 6, next6, destination6
	}
	do(load8, 0)
	do(shift, 4)
	want(version)
	do(load8, protocol)
	want(unix.IPPROTO_TCP)
	for i := 0; i < len(address); i += 4 {
		do(load32, uint32(at+i))
		want(binary.BigEndian.Uint32(address[i:]))
	}
	if version == 4 {
		do(header4, 0)
	} else {
		do(set, len6)
	}
	do(load16x, destinationPort)
	want(uint32(to.Port()))
	do(load8x, flags)
	do(and, synFlag|ackFlag)
	want(synFlag)
	do(ret, 1<<16)
	do(ret, 0)
	for i := range p {
		if p[i].Code == equal {
			p[i].Jf = uint8(len(p) - 1 - (i + 1))
		}
	}
	return p
}

// isSYN reports whether synFilter lets a packet pass.
func isSYN(b []byte, to netip.AddrPort) bool {
	version, header, protocol, at := byte(4), 0, protocol4, destination4
	if to.Addr().Is6() {
		version, header, protocol, at = 6, len6, next6, destination6
	}
	if len(b) == 0 || b[0]>>4 != version {
		return false
	}
	if version == 4 {
		header = int(b[0]&0xf) * 4
	}
	address := to.Addr().AsSlice()
	if len(b) < max(header, at+len(address))+minTCP {
		return false
	}
	tcp := b[header:]
	return b[protocol] == unix.IPPROTO_TCP && bytes.Equal(b[at:at+len(address)], address) &&
		binary.BigEndian.Uint16(tcp[destinationPort:]) == to.Port() && tcp[flags]&(synFlag|ackFlag) == synFlag
}

// The TCP options that parseSYN distinguishes (RFC 9293, section 3.1).
const (
	optionEnd, optionNone, optionMSS = 0, 1, 2
	mssLength                        = 4
)

// parseSYN returns the source and the maximum segment size of a TCP packet without
// IPv6 extension headers.
func parseSYN(b []byte) (source netip.AddrPort, mss uint16, ok bool) {
	if len(b) == 0 {
		return source, 0, false
	}
	header, from, size := int(b[0]&0xf)*4, source4, 4
	if b[0]>>4 == 6 {
		header, from, size = len6, source6, 16
	}
	if len(b) < max(header, from+size)+minTCP {
		return source, 0, false
	}
	addr, _ := netip.AddrFromSlice(b[from : from+size])
	tcp := b[header:]
	source = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(tcp))
	end := int(tcp[dataOffset]>>4) * 4
	for options := tcp[minTCP:min(max(end, minTCP), len(tcp))]; len(options) > 0 && options[0] != optionEnd; {
		length := 1
		if options[0] != optionNone {
			if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
				return source, 0, false
			}
			length = int(options[1])
		}
		if options[0] == optionMSS && length == mssLength {
			return source, binary.BigEndian.Uint16(options[2:]), true
		}
		options = options[length:]
	}
	return source, 0, false
}
