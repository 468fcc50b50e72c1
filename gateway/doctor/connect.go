package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/transparent"
)

// answerTime is how long a backend may take to answer a test. A packet that is
// lost is sent again after a second, and is no reason to cry.
const answerTime = 1500 * time.Millisecond

// answer is what became of an attempt to connect.
type answer uint8

const (
	answered    answer = iota
	refused            // by an RST, or because nobody listens on a unix socket
	silent             // nothing came in time
	unreachable        // this host, or a router, knows no way
	forbidden          // a capability is missing, or a firewall of this host rejects
	failed             // otherwise
)

// answerOf tells what an attempt's error means.
func answerOf(err error) answer {
	switch {
	case err == nil:
		return answered
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return silent
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return refused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EAFNOSUPPORT):
		return unreachable
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return forbidden
	}
	return failed
}

// try makes an attempt within the time that there is for one. Where the
// client's address and port happen to be in use it takes others.
func (h Host) try(ctx context.Context, a Attempt) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	local, err := h.Connect(ctx, a)
	if a.From.IsValid() && (errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL)) {
		a.From = stranger(a.To.Addr().Is6())
		local, err = h.Connect(ctx, a)
	}
	return local, err
}

// stranger makes up a client: an address and port of the networks that are kept
// for documentation, 192.0.2.0/24 (RFC 5737) or 2001:db8::/32 (RFC 3849), which
// no real client has.
func stranger(v6 bool) netip.AddrPort {
	port := uint16(32768 + rand.IntN(32768))
	if !v6 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + rand.IntN(254))}), port)
	}
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	for i := 8; i < len(a); i++ {
		a[i] = byte(1 + rand.IntN(255))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a), port)
}

// connect is [Host.Connect] on this machine.
//
// The backend's program does not get to see the connection. Our kernel holds
// the last ACK of the handshake back, to send it with the data that a client
// has as a rule (TCP_QUICKACK off, tcp_rcv_synsent_state_process), and the
// close is an RST (SO_LINGER of zero): the backend's kernel drops what it had
// not yet handed to accept(2).
func connect(ctx context.Context, a Attempt) (netip.AddrPort, error) {
	dialer := net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if opened := c.Control(func(fd uintptr) { err = prepare(int(fd), a) }); opened != nil {
			return opened
		}
		return err
	}}
	conn, err := dialer.DialContext(ctx, "tcp", a.To.String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(local.Addr().Unmap(), local.Port()), nil
}

// prepare sets the options of an attempt's socket and binds it.
func prepare(fd int, a Attempt) error {
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
	if !a.From.IsValid() {
		return nil
	}
	if errno := transparent.Bind(transparent.System{}, fd, a.From); errno != 0 {
		return os.NewSyscallError(fmt.Sprintf("bind to %s", a.From), errno)
	}
	return nil
}

// stand is [Host.Stand] on this machine.
func stand(at netip.AddrPort) (io.Closer, error) {
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", at.String())
}

// bind is [Host.Bind] on this machine. Only a listening socket stands in the way
// of another one with SO_REUSEADDR (inet_csk_bind_conflict), so that what was
// bound and let go is in nobody's way.
func bind(at netip.AddrPort, dualStack bool) error {
	return bindSocket(unix.SOCK_STREAM, at, dualStack)
}

// bindUDP is [Host.BindUDP] on this machine. What comes in the moment between is
// lost.
func bindUDP(at netip.AddrPort, dualStack bool) error {
	return bindSocket(unix.SOCK_DGRAM, at, dualStack)
}

func bindSocket(kind int, at netip.AddrPort, dualStack bool) error {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM { // with UDP it would get past somebody else's socket
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
		}
	}
	if family == unix.AF_INET {
		return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
	}
	only := 1
	if dualStack {
		only = 0
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
		return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}))
}
