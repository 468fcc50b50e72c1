package doctor

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/config"
	"unproxy/gateway/kernel"
	"unproxy/gateway/source"
	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
	"unproxy/transparent/toa"
)

// This returns the host that this process runs on.
func This() Host {
	executable, err := os.Executable()
	if err != nil {
		executable = os.Args[0]
	}
	return Host{
		Files:            os.DirFS("/"),
		Executable:       executable,
		FileCapabilities: fileCapabilities("/proc/self/exe"),
		Options:          testOptions,
		Programs:         programs,
		Addresses:        ownAddresses,
		Lookup:           routing.Resolve,
		Connect:          connect,
		Sight:            sight,
		Listen:           listen,
		Bind: func(at netip.AddrPort, dualStack bool) error {
			return bind(unix.SOCK_STREAM, at, dualStack)
		},
		BindUDP: func(at netip.AddrPort, dualStack bool) error {
			return bind(unix.SOCK_DGRAM, at, dualStack)
		},
		Plan: func(ctx context.Context, c *config.Config, names lookupFunc) (returnpath.Plan, error) {
			return routing.Plan(ctx, c.Targets(), routing.Surroundings{Lookup: names})
		},
		Missing:     routing.Missing,
		LookupRoute: routing.Lookup,
		Networks:    networks,
		Changes:     hostChanges,
		Firewall:    routing.Ruleset,
	}
}

func testOptions(foreign, mark bool) error {
	if !foreign {
		return transparent.CheckMark()
	}
	return transparent.Check(mark)
}

// networks implements [Host.Networks].
func networks(device string) ([]netip.Prefix, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", device, err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", device, err)
	}
	var all []netip.Prefix
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && !p.IsSingleIP() {
			all = append(all, p.Masked())
		}
	}
	return all, nil
}

// vfsCaps is struct vfs_ns_cap_data of linux/capability.h, the value of
// security.capability. Numbers are little-endian. Version 1 has 32 capabilities
// and ends after the first pair of sets.
type vfsCaps [24]byte

const (
	vfsCapsLow   = 4  // offset of the permitted set, capabilities 0 to 31
	vfsCapsHigh  = 12 // offset of the permitted set, capabilities 32 to 63
	vfsCapsSize1 = 12 // size of version 1
	vfsCapsSize2 = 20 // size of version 2
)

// fileCapabilities returns the permitted set of a program's file, or 0 if it has
// none or cannot be read.
func fileCapabilities(path string) uint64 {
	var data vfsCaps
	n, err := unix.Getxattr(path, "security.capability", data[:])
	if err != nil || n < vfsCapsSize1 {
		return 0
	}
	permitted := uint64(binary.LittleEndian.Uint32(data[vfsCapsLow:]))
	if n >= vfsCapsSize2 {
		permitted |= uint64(binary.LittleEndian.Uint32(data[vfsCapsHigh:])) << 32
	}
	return permitted
}

// connect implements [Host.Connect].
//
// The backend's program does not see the connection. Our kernel delays the last
// ACK of the handshake to send it with the client's first data (TCP_QUICKACK off,
// tcp_rcv_synsent_state_process). The close then sends an RST (SO_LINGER of zero),
// and the backend's kernel drops the connection before accept(2) returns it.
func connect(ctx context.Context, a Attempt) (netip.AddrPort, error) {
	var seen *tap // nil if it cannot be opened: a sandbox may forbid it
	mss := 0
	if a.From.IsValid() {
		mss = leastTestMSS + rand.IntN(testMSSes)
		if t, err := openTap(a.To, uint16(mss)); err == nil {
			seen = t
			defer t.close()
		}
	}
	dialer := net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if opened := c.Control(func(fd uintptr) { err = prepare(int(fd), a, mss) }); opened != nil {
			return opened
		}
		return err
	}}
	conn, err := dialer.DialContext(ctx, "tcp", a.To.String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	if a.Client.IsValid() {
		return localOf(conn), promise(conn.(*net.TCPConn), a)
	}
	if a.From.IsValid() {
		if seen == nil {
			return netip.AddrPort{}, nil
		}
		return seen.source(), nil
	}
	local := localOf(conn)
	if kernel.IsSelf(local, a.To) {
		// Package net has tried three ports. Nothing listens, or the kernel would not assign this one.
		return netip.AddrPort{}, os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return local, nil
}

// sight implements [Host.Sight].
func sight() error {
	t, err := openTap(netip.AddrPortFrom(netip.IPv4Unspecified(), 0), 0)
	if err == nil {
		t.close()
	}
	return err
}

// The maximum segment sizes by which a [tap] recognises a test. Other connections
// hardly have one of them: they are just above the 536 of RFC 9293.
const (
	leastTestMSS = 541
	testMSSes    = 400
)

// prepare sets the options of an attempt's socket and binds it. mss is its maximum
// segment size; 0 leaves the system's.
func prepare(fd int, a Attempt, mss int) error {
	if mss != 0 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, mss); err != nil {
			return os.NewSyscallError("setsockopt TCP_MAXSEG", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0); err != nil {
		return os.NewSyscallError("setsockopt TCP_QUICKACK", err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return os.NewSyscallError("setsockopt SO_LINGER", err)
	}
	if a.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(a.Mark)); err != nil {
			return os.NewSyscallError("setsockopt SO_MARK", err)
		}
	}
	if !a.From.IsValid() && a.Own.IsValid() {
		if errno := source.Bind(transparent.System{}, fd, a.Own, everyAddress{}); errno != 0 {
			return os.NewSyscallError(fmt.Sprintf("bind to %s", a.Own), errno)
		}
	}
	if a.Client.IsValid() {
		return setClient(fd, toa.Record{Client: a.Client, Format: a.Format})
	}
	if !a.From.IsValid() {
		return nil
	}
	if errno := transparent.Bind(transparent.System{}, fd, a.From); errno != 0 {
		return os.NewSyscallError(fmt.Sprintf("bind to %s", a.From), errno)
	}
	return nil
}

// everyAddress stands for the host's addresses, which checkSourceAddresses knows better.
type everyAddress struct{}

// Contains implements [transparent.Addresses].
func (everyAddress) Contains(netip.Addr) bool { return true }

// listen implements [Host.Listen].
func listen(at netip.AddrPort) (io.Closer, error) {
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", at.String())
}

// bind implements [Host.Bind] and [Host.BindUDP]. A TCP socket that does not
// listen does not conflict with one that has SO_REUSEADDR
// (inet_csk_bind_conflict). Datagrams that arrive while a UDP socket is bound are
// lost.
func bind(kind int, at netip.AddrPort, dualStack bool) error {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM { // with UDP it would permit a second socket
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
		}
	}
	if family == unix.AF_INET6 {
		only := 1
		if dualStack {
			only = 0
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	if errno := (transparent.System{}).Bind(fd, at); errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	return nil
}

// ownAddresses returns the addresses that this host accepts packets to.
func ownAddresses() ([]netip.Prefix, error) {
	own, _, err := routing.OwnAddresses()
	return own, err
}
