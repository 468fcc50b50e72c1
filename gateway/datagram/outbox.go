package datagram

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSegments is how many datagrams the kernel cuts a train into at most:
	// UDP_MAX_SEGMENTS was 64 before Linux 6.9.
	maxSegments = 64
	// maxTrain is the longest train in bytes, which is sent as one datagram
	// would be (udp_sendmsg): the room in one of IPv4.
	maxTrain = 65535 - 20 - 8
	// maxVectors is how many pieces an outbox holds.
	maxVectors = 4 * batchSize
)

// address is where a datagram goes, and from where. The zero value is a
// connected socket's: both are known.
type address struct {
	name       unix.RawSockaddrInet6
	nameLength uint32
	local      [16]byte // as in arrival; zero leaves it to the kernel
}

// train is what is known of one message of an outbox: datagrams for one address
// that are sent as one and cut apart by the kernel (UDP_SEGMENT in udp(7)). All
// are of one size, but the last may be smaller.
type train struct {
	to       address
	first    int // its first vector
	segment  int // size of a datagram
	count    int // of datagrams
	total    int // bytes
	complete bool
}

// sender is whose datagrams an outbox sends.
type sender interface {
	// told is called with an error of a call to send. It is that of an earlier
	// datagram more often than not, so the same is then tried again.
	told(errno syscall.Errno)
	// lost is called when datagrams could not be sent.
	lost(errno syscall.Errno, datagrams, bytes int)
	// whole is called when the kernel will not cut trains apart.
	whole()
}

// outbox collects datagrams for one socket, to send them with as few calls as
// the kernel allows. It keeps the slices that it is given until it is flushed.
type outbox struct {
	messages [batchSize]Message
	trains   [batchSize]train
	controls [batchSize]control
	vectors  [maxVectors]unix.Iovec
	n, v     int // messages and vectors in use
	single   Message
}

// room reports whether one more datagram can be added.
func (o *outbox) room() bool { return o.n < batchSize && o.v+2 <= maxVectors }

// add adds payload, with head before it. There must be room. segment is the
// size of the datagrams that payload is a train of, 0 if it is a single one;
// with a head there is no train. merge says that trains may be made.
func (o *outbox) add(to *address, head, payload []byte, segment int, merge bool) {
	total := len(head) + len(payload)
	if segment == 0 || segment >= total {
		segment = total
	}
	if !merge || !o.join(to, segment, total) {
		o.begin(to, segment, total)
	}
	if len(head) > 0 {
		o.piece(head)
	}
	o.piece(payload)
}

// join puts datagrams at the end of the last train, if they fit there.
func (o *outbox) join(to *address, segment, total int) bool {
	if o.n == 0 || total == 0 {
		return false
	}
	t := &o.trains[o.n-1]
	count := (total + segment - 1) / segment
	smaller := total == segment && segment < t.segment // one that ends the train
	if t.complete || segment != t.segment && !smaller ||
		t.count+count > maxSegments || t.total+total > maxTrain || t.to != *to {
		return false
	}
	t.count += count
	t.total += total
	t.complete = t.total%t.segment != 0
	return true
}

func (o *outbox) begin(to *address, segment, total int) {
	t := &o.trains[o.n]
	*t = train{to: *to, first: o.v, segment: segment, count: 1, total: total, complete: segment == 0}
	if segment > 0 {
		t.count = (total + segment - 1) / segment
		t.complete = total%segment != 0
	}
	o.n++
}

func (o *outbox) piece(b []byte) {
	o.vectors[o.v].Base = unsafe.SliceData(b)
	o.vectors[o.v].SetLen(len(b))
	o.v++
}

// flush sends everything.
func (o *outbox) flush(k Kernel, fd int, s sender) {
	if o.n == 0 {
		return
	}
	o.seal()
	o.sendAll(k, fd, s)
	o.n, o.v = 0, 0
}

// seal makes messages of the trains.
func (o *outbox) seal() {
	for i := range o.n {
		t, m := &o.trains[i], &o.messages[i]
		end := o.v
		if i+1 < o.n {
			end = o.trains[i+1].first
		}
		*m = Message{}
		m.Iov = &o.vectors[t.first]
		m.SetIovlen(end - t.first)
		if t.to.nameLength != 0 {
			m.Name, m.Namelen = (*byte)(unsafe.Pointer(&t.to.name)), t.to.nameLength
		}
		segment := 0
		if t.count > 1 {
			segment = t.segment
		}
		if n := o.controls[i].write(&t.to, segment); n > 0 {
			m.Control = (*byte)(unsafe.Pointer(&o.controls[i]))
			m.SetControllen(n)
		}
	}
}

func (o *outbox) sendAll(k Kernel, fd int, s sender) {
	tried := false
	for i := 0; i < o.n; {
		sent, errno := k.Send(fd, o.messages[i:o.n])
		t := &o.trains[i]
		switch {
		case errno == 0:
			i += sent
			tried = false
		case errno == unix.EINTR:
		case noRoom(errno):
			o.loseFrom(i, errno, s)
			return
		case t.count > 1 && (errno == unix.EIO || errno == unix.EINVAL || tried && errno == unix.EMSGSIZE):
			s.whole()
			o.sendSingly(k, fd, i, s)
			i++
			tried = false
		case !tried:
			tried = true
			s.told(errno)
		default:
			s.lost(errno, t.count, t.total)
			i++
			tried = false
		}
	}
}

// noRoom says that a datagram, and those behind it, find the way out full.
func noRoom(errno syscall.Errno) bool {
	return errno == unix.EAGAIN || errno == unix.ENOBUFS || errno == unix.ENOMEM
}

func (o *outbox) loseFrom(i int, errno syscall.Errno, s sender) {
	for ; i < o.n; i++ {
		s.lost(errno, o.trains[i].count, o.trains[i].total)
	}
}

// sendSingly sends the datagrams of a train one by one.
func (o *outbox) sendSingly(k Kernel, fd, i int, s sender) {
	t := &o.trains[i]
	pieces := o.messages[i].Iovlen
	rest := o.vectors[t.first : t.first+int(pieces)]
	o.single = o.messages[i]
	o.single.SetControllen(o.controls[i].write(&t.to, 0))
	if o.single.Controllen == 0 {
		o.single.Control = nil
	}
	for left := t.total; left > 0; {
		size := min(t.segment, left)
		left -= size
		rest = o.sendOne(k, fd, rest, size, s)
	}
}

// sendOne sends size bytes from the beginning of some pieces, and returns the
// pieces that are left.
func (o *outbox) sendOne(k Kernel, fd int, pieces []unix.Iovec, size int, s sender) []unix.Iovec {
	n, cut := 0, 0 // pieces, and what of the last of them
	for have := 0; have < size; n++ {
		cut = min(int(pieces[n].Len), size-have)
		have += cut
	}
	last := &pieces[n-1]
	left := int(last.Len) - cut
	last.SetLen(cut)
	o.single.Iov = &pieces[0]
	o.single.SetIovlen(n)
	errno := o.sendSingle(k, fd, s)
	if errno != 0 {
		s.lost(errno, 1, size)
	}
	if left == 0 {
		return pieces[n:]
	}
	last.Base = (*byte)(unsafe.Add(unsafe.Pointer(last.Base), cut))
	last.SetLen(left)
	return pieces[n-1:]
}

func (o *outbox) sendSingle(k Kernel, fd int, s sender) syscall.Errno {
	list := unsafe.Slice(&o.single, 1)
	for tried := false; ; {
		_, errno := k.Send(fd, list)
		switch {
		case errno == unix.EINTR:
		case errno == 0 || tried || noRoom(errno):
			return errno
		default:
			tried = true
			s.told(errno)
		}
	}
}

// write puts together the control data for a message to an address, which is a
// train of datagrams of a size, or none if that is 0. It returns the length.
func (c *control) write(to *address, segment int) int {
	b, n := c.bytes(), 0
	if to.local != ([16]byte{}) {
		if to.name.Family == unix.AF_INET {
			info := unix.Inet4Pktinfo{Spec_dst: [4]byte(to.local[:4])}
			n = putControl(b[:], unix.IPPROTO_IP, unix.IP_PKTINFO, (*[unix.SizeofInet4Pktinfo]byte)(unsafe.Pointer(&info))[:])
		} else {
			info := unix.Inet6Pktinfo{Addr: to.local}
			n = putControl(b[:], unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, (*[unix.SizeofInet6Pktinfo]byte)(unsafe.Pointer(&info))[:])
		}
	}
	if segment > 0 {
		var value [2]byte
		binary.NativeEndian.PutUint16(value[:], uint16(segment))
		n += putControl(b[n:], unix.SOL_UDP, unix.UDP_SEGMENT, value[:])
	}
	return n
}

// putControl writes one piece of control data and returns the room that it
// takes up.
func putControl(b []byte, level, kind int32, value []byte) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	*h = unix.Cmsghdr{Level: level, Type: kind}
	h.SetLen(unix.SizeofCmsghdr + len(value))
	copy(b[unix.SizeofCmsghdr:], value)
	return (unix.SizeofCmsghdr + len(value) + 7) &^ 7
}
