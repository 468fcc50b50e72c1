package datagram

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
)

// queueSize is how many bytes of datagrams the kernel is asked to keep for a
// listener while its loop is busy. It counts a good deal more than a datagram's
// own bytes.
const queueSize = 4 << 20

// front is one loop's socket of a listener.
type front struct {
	*engine.Route
	worker *worker
	lane   *lane
	reader reader
	number uint32 // of the listener
	fd     int
	// noTrains: the kernel did not cut a train apart on the way to a peer.
	noTrains bool
	// busy: something came since the queue was looked at.
	busy      bool
	overflows uint32 // when it was looked at
}

// open opens a listener's socket. The first loop's is bound alone, so that an
// address that somebody else has is refused; only then may those of the other
// loops join it (SO_REUSEPORT in socket(7)).
func (w *worker) open(i int, route *engine.Route) error {
	fr := &front{Route: route, worker: w, lane: w.laneOf(route.Forward), reader: newReader(route.Forward), number: uint32(i), fd: -1}
	at := route.Listener.Endpoint.Addr
	if w.host.Index() > 0 {
		at = w.relay.bound[i].Addr
	}
	fd, errno := fr.openSocket(at)
	if errno != 0 {
		return &engine.ListenError{Name: route.Listener.Name, Err: errno}
	}
	fr.fd = fd
	fr.enlarge()
	w.fronts = append(w.fronts, fr)
	if w.host.Index() > 0 {
		return nil
	}
	bound, errno := w.kernel.LocalAddr(fr.fd)
	if errno != 0 {
		return &engine.ListenError{Name: route.Listener.Name, Err: systemError("getsockname", errno)}
	}
	route.Bound = forward.Endpoint{Addr: bound}
	w.relay.bound[i] = route.Bound
	return nil
}

// openSocket opens a socket that is bound to an address and returns its
// descriptor. On a host without IPv6 a dual-stack listener falls back to the IPv4
// wildcard.
func (fr *front) openSocket(at netip.AddrPort) (int, syscall.Errno) {
	k, family := fr.worker.kernel, unix.AF_INET6
	if at.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, errno := k.Socket(family)
	if errno == 0 {
		if errno = fr.bind(fd, at); errno == 0 {
			return fd, 0
		}
		k.Close(fd)
	}
	if fr.Listener.DualStack && at.Addr().Is6() && kernel.NoIPv6(errno) {
		return fr.openSocket(netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()))
	}
	return -1, errno
}

// laneOf returns the lane of a forward.
func (w *worker) laneOf(f *forward.Forward) *lane {
	for _, l := range w.lanes {
		if l.Forward == f {
			return l
		}
	}
	l := &lane{forwardState: w.relay.forwards[f], tally: w.host.Tally(f)}
	w.lanes = append(w.lanes, l)
	return l
}

// enlarge asks for long queues, and for trains. The kernel may refuse both.
func (fr *front) enlarge() {
	k, fd := fr.worker.kernel, fr.fd
	// The system's limit is for those who may not go beyond it.
	if k.SetOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueSize) != 0 {
		k.SetOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queueSize)
	}
	if k.SetOption(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, queueSize) != 0 {
		k.SetOption(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, queueSize)
	}
	k.SetOption(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // kernels before 5.0 do without
}

// bind sets what has to be set before bind(2), binds, and sets the rest.
func (fr *front) bind(fd int, at netip.AddrPort) syscall.Errno {
	k := fr.worker.kernel
	share := [3]int{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}
	var before, after [][3]int
	if at.Addr().Is6() {
		before = append(before, [3]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, truth(!fr.Listener.DualStack)})
	}
	switch {
	case fr.worker.host.Index() > 0:
		before = append(before, share)
	case fr.worker.host.Loops() > 1:
		after = append(after, share)
	}
	if at.Addr().IsUnspecified() {
		// A reply must come from the address that was sent to, of several.
		option := [3]int{unix.IPPROTO_IP, unix.IP_PKTINFO, 1}
		if at.Addr().Is6() {
			option = [3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}
		}
		before = append(before, option)
	}
	for _, o := range before {
		if errno := k.SetOption(fd, o[0], o[1], o[2]); errno != 0 {
			return errno
		}
	}
	if errno := k.Bind(fd, at); errno != 0 {
		return errno
	}
	for _, o := range after {
		if errno := k.SetOption(fd, o[0], o[1], o[2]); errno != 0 {
			return errno
		}
	}
	return 0
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

func systemError(call string, errno syscall.Errno) error { return os.NewSyscallError(call, errno) }
