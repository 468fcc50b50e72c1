package datagram

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSegments is the maximum number of datagrams of a GSO batch
	// (UDP_MAX_SEGMENTS, 64 before Linux 6.9).
	maxSegments = 64
	// maxGSOBytes is the maximum size of a GSO batch: the payload of one IPv4
	// datagram (udp_sendmsg).
	maxGSOBytes = 65535 - 20 - 8
	// maxVectors is the maximum number of slices that an outbox holds.
	maxVectors = 4 * batchSize
)

// address is the destination and the source of a datagram. The zero value is for
// connected sockets.
type address struct {
	name       unix.RawSockaddrInet6
	nameLength uint32
	local      [16]byte // as in arrival; zero lets the kernel choose
}

// gsoBatch describes one message of an outbox: datagrams to one address that are
// sent as one and segmented by the kernel (generic segmentation offload,
// UDP_SEGMENT in udp(7)). They have the same size; the last one may be smaller.
type gsoBatch struct {
	to       address
	first    int // index of its first vector
	segment  int // size of a datagram
	count    int // of datagrams
	total    int // bytes
	complete bool
}

// sender is the owner of the datagrams in an outbox.
type sender interface {
	// pendingError is called with an error of a send call. It is usually the
	// pending error of an earlier datagram, so the call is retried once.
	pendingError(errno syscall.Errno)
	// lost is called for datagrams that could not be sent.
	lost(errno syscall.Errno, datagrams, bytes int)
	// gsoRefused is called when the kernel refuses to segment a batch.
	gsoRefused()
}

// outbox collects datagrams for one socket and sends them with few system calls. It
// keeps the slices that it is given until flush.
type outbox struct {
	messages [batchSize]Message
	batches  [batchSize]gsoBatch
	controls [batchSize]control
	vectors  [maxVectors]unix.Iovec
	n, v     int // messages and vectors in use
	single   Message
}

// room reports whether another datagram fits.
func (o *outbox) room() bool { return o.n < batchSize && o.v+2 <= maxVectors }

// add queues payload, preceded by head. The caller checks room first. segment is
// the size of the datagrams if payload is a batch, and 0 if it is one datagram; a
// batch cannot have a head. merge allows GSO.
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

// join appends datagrams to the last batch, if they fit.
func (o *outbox) join(to *address, segment, total int) bool {
	if o.n == 0 || total == 0 {
		return false
	}
	t := &o.batches[o.n-1]
	count := (total + segment - 1) / segment
	smaller := total == segment && segment < t.segment // it completes the batch
	if t.complete || segment != t.segment && !smaller ||
		t.count+count > maxSegments || t.total+total > maxGSOBytes || t.to != *to {
		return false
	}
	t.count += count
	t.total += total
	t.complete = t.total%t.segment != 0
	return true
}

func (o *outbox) begin(to *address, segment, total int) {
	t := &o.batches[o.n]
	*t = gsoBatch{to: *to, first: o.v, segment: segment, count: 1, total: total, complete: segment == 0}
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

// flush sends all queued datagrams.
func (o *outbox) flush(k Kernel, fd int, s sender) {
	if o.n == 0 {
		return
	}
	o.seal()
	o.sendAll(k, fd, s)
	o.n, o.v = 0, 0
}

// seal builds the messages of the batches.
func (o *outbox) seal() {
	for i := range o.n {
		t, m := &o.batches[i], &o.messages[i]
		end := o.v
		if i+1 < o.n {
			end = o.batches[i+1].first
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
		t := &o.batches[i]
		switch {
		case errno == 0:
			i += sent
			tried = false
		case errno == unix.EINTR:
		case queueFull(errno):
			o.loseFrom(i, errno, s)
			return
		case t.count > 1 && (errno == unix.EIO || errno == unix.EINVAL || tried && errno == unix.EMSGSIZE):
			s.gsoRefused()
			o.sendSingly(k, fd, i, s)
			i++
			tried = false
		case !tried:
			tried = true
			s.pendingError(errno)
		default:
			s.lost(errno, t.count, t.total)
			i++
			tried = false
		}
	}
}

// queueFull reports whether an error means that the send queue is full, for this
// datagram and those after it.
func queueFull(errno syscall.Errno) bool {
	return errno == unix.EAGAIN || errno == unix.ENOBUFS || errno == unix.ENOMEM
}

func (o *outbox) loseFrom(i int, errno syscall.Errno, s sender) {
	for ; i < o.n; i++ {
		s.lost(errno, o.batches[i].count, o.batches[i].total)
	}
}

// sendSingly sends the datagrams of a batch one by one.
func (o *outbox) sendSingly(k Kernel, fd, i int, s sender) {
	t := &o.batches[i]
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

// sendOne sends the first size bytes of pieces as one datagram and returns the
// remaining pieces.
func (o *outbox) sendOne(k Kernel, fd int, pieces []unix.Iovec, size int, s sender) []unix.Iovec {
	n, cut := 0, 0 // number of pieces, and bytes of the last one
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
		case errno == 0 || tried || queueFull(errno):
			return errno
		default:
			tried = true
			s.pendingError(errno)
		}
	}
}

// write encodes the control data of a message and returns its length. segment is
// the GSO size; 0 is none.
func (c *control) write(to *address, segment int) int {
	b, n := c.bytes(), 0
	if to.local != ([16]byte{}) {
		if to.name.Family == unix.AF_INET {
			info := unix.Inet4Pktinfo{Spec_dst: [4]byte(to.local[:4])}
			n = putControl(b[:], unix.IPPROTO_IP, unix.IP_PKTINFO,
				(*[unix.SizeofInet4Pktinfo]byte)(unsafe.Pointer(&info))[:])
		} else {
			info := unix.Inet6Pktinfo{Addr: to.local}
			n = putControl(b[:], unix.IPPROTO_IPV6, unix.IPV6_PKTINFO,
				(*[unix.SizeofInet6Pktinfo]byte)(unsafe.Pointer(&info))[:])
		}
	}
	if segment > 0 {
		var value [2]byte
		binary.NativeEndian.PutUint16(value[:], uint16(segment))
		n += putControl(b[n:], unix.SOL_UDP, unix.UDP_SEGMENT, value[:])
	}
	return n
}

// putControl encodes one control message and returns its length with padding.
func putControl(b []byte, level, kind int32, value []byte) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	*h = unix.Cmsghdr{Level: level, Type: kind}
	h.SetLen(unix.CmsgLen(len(value)))
	copy(b[unix.CmsgLen(0):], value)
	return unix.CmsgSpace(len(value))
}
