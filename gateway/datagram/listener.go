package datagram

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/source"
)

// queueSize is the receive buffer of a listener's socket, in bytes. The kernel
// charges much more than the length of a datagram (SO_RCVBUF in socket(7)).
const queueSize = 4 << 20

// listenerSocket is a socket of a listener, served by one loop.
type listenerSocket struct {
	*engine.Route
	worker *worker
	list   *lruList
	reader reader
	number uint32 // of the listener
	index  uint16 // among the sockets that share the address
	fd     int    // -1 once it is closed
	// noGSO: the kernel refused to segment a GSO batch on the way to a peer.
	noGSO bool
	// busy: a datagram arrived since the last check of overflows.
	busy bool
	// behind: the last receive did not empty the queue.
	behind    bool
	overflows uint32 // at the last check
	failures  int    // errors in a row, see receiveFailed
	paused    int64  // until when nothing is received; 0: it is watched
	reported  bool   // receive_failed was reported, receive_recovered was not
}

// open opens the socket of a listener, or takes over those of the previous process.
// The first loop binds without SO_REUSEPORT, so that an address in use is
// refused; then the other loops' sockets may join it (SO_REUSEPORT in socket(7)), and
// flows may use its port as a client's, see [transparent.SharePort].
func (w *worker) open(i int, route *engine.Route) error {
	if len(route.Listener.Shared) > 0 {
		return w.inherit(i, route)
	}
	ls := w.newSocket(i, route)
	ls.index = uint16(w.host.Index())
	at := route.Listener.Endpoint.Addr
	if w.host.Index() > 0 {
		at = w.relay.bound[i].Addr
	}
	fd, errno := ls.openSocket(at)
	if errno != 0 {
		return &engine.ListenError{Name: route.Listener.Name, Address: at, Datagrams: true, Err: errno}
	}
	ls.fd = fd
	ls.setBuffers()
	w.listeners = append(w.listeners, ls)
	return w.findBound(ls)
}

func (w *worker) newSocket(i int, route *engine.Route) *listenerSocket {
	return &listenerSocket{
		Route: route, worker: w, list: w.listOf(route.Forward), reader: newReader(route.Forward),
		number: uint32(i), fd: -1,
	}
}

// inherit takes over the loop's share of a listener's open sockets. The kernel
// distributes datagrams over the sockets by their number, so all of them are served,
// and none is added. With more loops than sockets, some loops have none.
func (w *worker) inherit(i int, route *engine.Route) error {
	for index := w.host.Index(); index < len(route.Listener.Shared); index += w.host.Loops() {
		ls := w.newSocket(i, route)
		ls.index, ls.fd = uint16(index), route.Listener.Shared[index].FD
		ls.overflown()
		w.listeners = append(w.listeners, ls)
		if err := w.findBound(ls); err != nil {
			return err
		}
		w.relay.inherited[inheritedSocket{w.relay.bound[i].Addr, ls.index}] = ls
	}
	return nil
}

// findBound records the address that a listener's first socket is bound to. The others
// have the same.
func (w *worker) findBound(ls *listenerSocket) error {
	if ls.index > 0 {
		return nil
	}
	bound, errno := w.kernel.LocalAddr(ls.fd)
	if errno != 0 {
		return &engine.ListenError{Name: ls.Listener.Name, Err: os.NewSyscallError("getsockname", errno)}
	}
	ls.Bound = forward.Endpoint{Addr: bound}
	w.relay.bound[ls.number] = ls.Bound
	return nil
}

// overflown returns how many datagrams the kernel has dropped since the last call because the queue was full. If
// it does not say, the next call counts them.
func (ls *listenerSocket) overflown() int {
	n, errno := ls.worker.kernel.Overflows(ls.fd)
	if errno != 0 {
		return 0
	}
	since := n - ls.overflows
	ls.overflows = n
	return int(since)
}

// closeListener closes the socket of a listener, once.
func (w *worker) closeListener(ls *listenerSocket) {
	if ls.fd >= 0 {
		w.kernel.Close(ls.fd)
		ls.fd = -1
	}
}

// openSocket opens a socket that is bound to an address and returns its
// descriptor. On a host without IPv6 a dual-stack listener falls back to the IPv4
// wildcard.
func (ls *listenerSocket) openSocket(at netip.AddrPort) (int, syscall.Errno) {
	k, family := ls.worker.kernel, unix.AF_INET6
	if at.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, errno := k.Socket(family)
	if errno == 0 {
		if errno = ls.bind(fd, at); errno == 0 {
			return fd, 0
		}
		k.Close(fd)
	}
	if ls.Listener.DualStack && at.Addr().Is6() && kernel.NoIPv6(errno) {
		return ls.openSocket(netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()))
	}
	return -1, errno
}

// listOf returns the list of a forward.
func (w *worker) listOf(f *forward.Forward) *lruList {
	for _, l := range w.lists {
		if l.Forward == f {
			return l
		}
	}
	l := &lruList{
		forwardState: w.relay.forwards[f], tally: w.host.Tally(f),
		sources: source.NewPool(f.SourceAddresses, w.host.Index()),
	}
	w.lists = append(w.lists, l)
	return l
}

// setBuffers asks for large buffers and for GRO. The kernel may refuse both.
func (ls *listenerSocket) setBuffers() {
	k, fd := ls.worker.kernel, ls.fd
	// With CAP_NET_ADMIN the system's limit can be exceeded.
	if k.SetOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueSize) != 0 {
		k.SetOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queueSize)
	}
	if k.SetOption(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, queueSize) != 0 {
		k.SetOption(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, queueSize)
	}
	k.SetOption(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // not before Linux 5.0
}

// bind sets the options that must precede bind(2), binds, and sets the rest.
func (ls *listenerSocket) bind(fd int, at netip.AddrPort) syscall.Errno {
	k := ls.worker.kernel
	share := [3]int{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}
	var before, after [][3]int
	if at.Addr().Is6() {
		before = append(before, [3]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, kernel.Bool(!ls.Listener.DualStack)})
	}
	switch {
	case ls.worker.host.Index() > 0:
		before = append(before, share)
	case ls.worker.host.Loops() > 1, ls.worker.relay.clientPorts && at.Addr().IsUnspecified():
		after = append(after, share)
	}
	if at.Addr().IsUnspecified() {
		// A reply must come from the address that the peer sent to.
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
