package datagram

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"
	"unsafe"

	"unproxy/gateway/kernel"

	"golang.org/x/sys/unix"
)

// script is an in-memory kernel: datagram sockets whose remote ends the test plays. It belongs to
// one goroutine. Using a closed descriptor fails the test.
type script struct {
	testing.TB
	sockets []*socket // by descriptor, from 3

	limit        int                                         // most open sockets, 0: no limit
	socketErrors []syscall.Errno                             // results of the next Socket calls, 0: success
	optionError  func(level, name int) syscall.Errno         // of SetOption
	bindError    func(netip.AddrPort) syscall.Errno          // of Bind
	connectError func(to, from netip.AddrPort) syscall.Errno // of Connect
	onConnect    func(s *socket, to netip.AddrPort)          // called for each Connect that succeeds
	calls        map[string]int
	noBatches    bool // io_setup(2) is refused
	batches      int  // open batches
	quiet        bool // discards what is sent, so it does not allocate
}

// socket is a datagram socket.
type socket struct {
	fd         int
	family     int
	isOpen     bool
	options    map[[2]int]int
	order      []string // of the calls that set it up
	bound      netip.AddrPort
	to         netip.AddrPort
	queue      []datagram
	errors     []syscall.Errno // what the next Receives or Reads return
	failing    []syscall.Errno // what the next Sends or Writes return, 0 for none
	sent       []datagram
	gsoBatches int // messages to split
	drops      uint32
}

// datagram is one on its way. A segment makes it a GSO batch.
type datagram struct {
	peer    netip.AddrPort // its sender, or where it goes
	local   netip.Addr     // the gateway's end of it, if the socket asks for it
	data    string
	segment int
}

func newScript(t testing.TB) *script { return &script{TB: t, calls: map[string]int{}} }

func (k *script) socket(fd int, call string) *socket {
	k.Helper()
	if fd < 3 || fd-3 >= len(k.sockets) || !k.sockets[fd-3].isOpen {
		k.Fatalf("%s of descriptor %d, which is not open", call, fd)
	}
	k.calls[call]++
	return k.sockets[fd-3]
}

func (k *script) open() (n int) {
	for _, s := range k.sockets {
		if s.isOpen {
			n++
		}
	}
	return n
}

func (k *script) Socket(family int) (int, syscall.Errno) {
	if len(k.socketErrors) > 0 {
		errno := k.socketErrors[0]
		if k.socketErrors = k.socketErrors[1:]; errno != 0 {
			return -1, errno
		}
	}
	if k.limit > 0 && k.open() >= k.limit {
		return -1, unix.EMFILE
	}
	s := &socket{fd: len(k.sockets) + 3, family: family, isOpen: true, options: map[[2]int]int{}}
	k.sockets = append(k.sockets, s)
	return s.fd, 0
}

func (k *script) SetOption(fd, level, name, value int) syscall.Errno {
	s := k.socket(fd, "setsockopt")
	if k.optionError != nil {
		if errno := k.optionError(level, name); errno != 0 {
			return errno
		}
	}
	s.options[[2]int{level, name}] = value
	if level == unix.SOL_SOCKET && name == unix.SO_REUSEPORT {
		s.order = append(s.order, "share")
	}
	return 0
}

func (k *script) Bind(fd int, a netip.AddrPort) syscall.Errno {
	s := k.socket(fd, "bind")
	s.order = append(s.order, "bind")
	if k.bindError != nil {
		if errno := k.bindError(a); errno != 0 {
			return errno
		}
	}
	if a.Addr().Is4() != (s.family == unix.AF_INET) {
		k.Errorf("bind of a socket of family %d to %v", s.family, a)
	}
	if a.Port() == 0 && s.options[[2]int{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT}] == 0 {
		a = netip.AddrPortFrom(a.Addr(), uint16(50000+fd))
	}
	s.bound = a
	return 0
}

func (k *script) Connect(fd int, to netip.AddrPort) syscall.Errno {
	s := k.socket(fd, "connect")
	if k.connectError != nil {
		if errno := k.connectError(to, s.bound); errno != 0 {
			return errno
		}
	}
	if to.Addr().Is4() != (s.family == unix.AF_INET) {
		k.Errorf("connect of a socket of family %d to %v", s.family, to)
	}
	if s.bound.Port() == 0 && s.bound.IsValid() {
		s.bound = netip.AddrPortFrom(s.bound.Addr(), uint16(50000+fd))
	}
	s.to = to
	if k.onConnect != nil {
		k.onConnect(s, to)
	}
	return 0
}

func (k *script) LocalAddr(fd int) (netip.AddrPort, syscall.Errno) {
	return k.socket(fd, "getsockname").bound, 0
}

func (k *script) Close(fd int) { k.socket(fd, "close").isOpen = false }

// Duplicate copies the socket. The copy has a receive queue of its own.
func (k *script) Duplicate(fd int) (int, syscall.Errno) {
	s := *k.socket(fd, "dup")
	if k.limit > 0 && k.open() >= k.limit {
		return -1, unix.EMFILE
	}
	s.fd = len(k.sockets) + 3
	k.sockets = append(k.sockets, &s)
	return s.fd, 0
}

func (k *script) Overflows(fd int) (uint32, syscall.Errno) { return k.socket(fd, "overflows").drops, 0 }

// next removes and returns the first error of a list, or 0 if the list is empty.
func next(list *[]syscall.Errno) syscall.Errno {
	if len(*list) == 0 {
		return 0
	}
	errno := (*list)[0]
	*list = (*list)[1:]
	return errno
}

func (k *script) Receive(fd int, m []Message) (int, syscall.Errno) {
	s := k.socket(fd, "recvmmsg")
	if errno := next(&s.errors); errno != 0 {
		return 0, errno
	}
	if len(s.queue) == 0 {
		return 0, unix.EAGAIN
	}
	n := min(len(m), len(s.queue))
	for i := range n {
		s.fill(&m[i], s.queue[i])
	}
	s.queue = s.queue[:copy(s.queue, s.queue[n:])]
	return n, 0
}

// fill writes a datagram into a message as the kernel does.
func (s *socket) fill(m *Message, d datagram) {
	m.Length = uint32(copy(unsafe.Slice(m.Iov.Base, m.Iov.Len), d.data))
	m.Flags = 0
	if int(m.Length) < len(d.data) {
		m.Flags = unix.MSG_TRUNC
	}
	if m.Name != nil {
		name, peer := (*unix.RawSockaddrInet6)(unsafe.Pointer(m.Name)), d.peer
		if s.family == unix.AF_INET6 {
			peer = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port())
		}
		m.Namelen = uint32(kernel.EncodeSockaddr(name, peer))
	}
	room := unsafe.Slice(m.Control, m.Controllen)
	n := 0
	switch {
	case !d.local.IsValid():
	case s.options[[2]int{unix.IPPROTO_IP, unix.IP_PKTINFO}] == 1:
		var info unix.Inet4Pktinfo
		info.Ifindex, info.Spec_dst, info.Addr = 1, d.local.As4(), [4]byte{224, 0, 0, 1}
		n = putControl(room, unix.IPPROTO_IP, unix.IP_PKTINFO, (*[12]byte)(unsafe.Pointer(&info))[:])
	case s.options[[2]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO}] == 1:
		info := unix.Inet6Pktinfo{Addr: d.local.As16(), Ifindex: 1}
		n = putControl(room, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, (*[20]byte)(unsafe.Pointer(&info))[:])
	}
	if d.segment > 0 {
		value := binary.NativeEndian.AppendUint32(nil, uint32(d.segment))
		n += putControl(room[n:], unix.SOL_UDP, unix.UDP_GRO, value)
	}
	m.SetControllen(n)
}

func (k *script) Read(fd int, b []byte) (int, syscall.Errno) {
	s := k.socket(fd, "recv")
	if errno := next(&s.errors); errno != 0 {
		return 0, errno
	}
	if len(s.queue) == 0 {
		return 0, unix.EAGAIN
	}
	n := copy(b, s.queue[0].data)
	s.queue = s.queue[:copy(s.queue, s.queue[1:])]
	return n, 0
}

func (k *script) Write(fd int, b []byte) syscall.Errno {
	s := k.socket(fd, "send")
	if errno := next(&s.failing); errno != 0 {
		return errno
	}
	if !k.quiet {
		s.sent = append(s.sent, datagram{peer: s.to, data: string(b)})
	}
	return 0
}

// Batch performs the operations one by one, if I/O batches are available.
func (k *script) Batch(n int) kernel.Batch {
	if k.noBatches {
		return nil
	}
	k.batches++
	return scriptedBatch{k, n}
}

type scriptedBatch struct {
	kernel *script
	size   int
}

func (b scriptedBatch) Recv(all []kernel.Transfer) {
	b.count(all)
	for i := range all {
		t := &all[i]
		t.N, t.Errno = b.kernel.Read(t.FD, t.B)
	}
}

func (b scriptedBatch) Send(all []kernel.Transfer) {
	b.count(all)
	for i := range all {
		t := &all[i]
		t.N, t.Errno = len(t.B), b.kernel.Write(t.FD, t.B)
	}
}

// count counts the system calls that the real kernel would get.
func (b scriptedBatch) count(all []kernel.Transfer) {
	b.kernel.calls["io_submit"] += (len(all) + b.size - 1) / b.size
	for _, t := range all {
		if len(t.B) == 0 {
			b.kernel.Errorf("an I/O batch without buffers")
		}
	}
}

func (b scriptedBatch) Close() { b.kernel.batches-- }

func (k *script) Send(fd int, m []Message) (int, syscall.Errno) {
	s := k.socket(fd, "sendmmsg")
	for i := range m {
		if errno := next(&s.failing); errno != 0 {
			if i > 0 {
				s.failing = append([]syscall.Errno{errno}, s.failing...)
				return i, 0
			}
			return 0, errno
		}
		if !k.quiet {
			s.take(k, &m[i])
		}
	}
	return len(m), 0
}

// take reads a message as the kernel does, and cuts a GSO batch apart.
func (s *socket) take(k *script, m *Message) {
	d := datagram{peer: s.to}
	if m.Name != nil {
		d.peer = kernel.DecodeSockaddr((*unix.RawSockaddrInet6)(unsafe.Pointer(m.Name)))
	}
	for data := unsafe.Slice(m.Control, m.Controllen); len(data) > 0; {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&data[0]))
		value := data[unix.SizeofCmsghdr:h.Len]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO:
			d.local = netip.AddrFrom4([4]byte(value[4:]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO:
			d.local = netip.AddrFrom16([16]byte(value)).Unmap()
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_SEGMENT:
			d.segment = int(binary.NativeEndian.Uint16(value))
		default:
			k.Errorf("control data of level %d, type %d", h.Level, h.Type)
		}
		data = data[(h.Len+7)&^7:]
	}
	var all []byte
	for _, v := range unsafe.Slice(m.Iov, m.Iovlen) {
		all = append(all, unsafe.Slice(v.Base, v.Len)...)
	}
	if d.segment == 0 {
		d.data = string(all)
		s.sent = append(s.sent, d)
		return
	}
	s.gsoBatches++
	size := d.segment
	if len(all) > maxGSOBytes || (len(all)+size-1)/size > maxSegments {
		k.Errorf("a GSO batch of %d bytes in pieces of %d", len(all), size)
	}
	for d.segment = 0; len(all) > 0; all = all[len(d.data):] {
		d.data = string(all[:min(size, len(all))])
		s.sent = append(s.sent, d)
	}
}
