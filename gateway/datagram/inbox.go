package datagram

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many datagrams one system call takes at most.
	batchSize = 64
	// slotSize has room for the largest datagram, and for the largest train
	// of them that the kernel puts together (UDP_GRO in udp(7)).
	slotSize = 64 << 10
	// slotStride keeps the beginnings of the slots out of the same few lines
	// of the processor's first cache, which go by the low 12 bits.
	slotStride = slotSize + 3*64
	// controlSize has room for IPV6_PKTINFO and UDP_GRO, or UDP_SEGMENT.
	controlSize = 64
)

// control is the room for a message's control data, aligned as the kernel wants
// it (cmsg(3)).
type control [controlSize / 8]uint64

func (c *control) bytes() *[controlSize]byte { return (*[controlSize]byte)(unsafe.Pointer(c)) }

// inbox is room for a batch of received datagrams. What is in it is good until
// the next call that receives into the same slots.
type inbox struct {
	messages [batchSize]Message
	vectors  [batchSize]unix.Iovec
	names    [batchSize]unix.RawSockaddrInet6
	controls [batchSize]control
	buffer   []byte
	used     int // slots that hold something which is still wanted
}

func newInbox() *inbox {
	b := &inbox{buffer: make([]byte, batchSize*slotStride)}
	for i := range b.messages {
		b.vectors[i].Base = &b.buffer[i*slotStride]
		b.vectors[i].SetLen(slotSize)
		b.messages[i].Iov = &b.vectors[i]
		b.messages[i].SetIovlen(1)
	}
	return b
}

// unused returns up to n messages for a call to receive into, without the
// sender's name, which a connected socket has no need of.
func (b *inbox) unused(n int) []Message {
	n = min(n, batchSize-b.used)
	list := b.messages[b.used : b.used+n]
	for i := range list {
		list[i].Control = (*byte)(unsafe.Pointer(&b.controls[b.used+i]))
		list[i].SetControllen(controlSize)
	}
	return list
}

// named returns all messages for a call to receive into, with room for the
// senders' names.
func (b *inbox) named() []Message {
	b.used = 0
	list := b.unused(batchSize)
	for i := range list {
		list[i].Name = (*byte)(unsafe.Pointer(&b.names[i]))
		list[i].Namelen = unix.SizeofSockaddrInet6
	}
	return list
}

// slot returns the room of the i-th datagram.
func (b *inbox) slot(i int) []byte {
	at := i * slotStride
	return b.buffer[at : at+slotSize : at+slotSize]
}

// arrival is what the kernel says of a datagram beside its sender.
type arrival struct {
	// local is the address that it was sent to, as it goes into the control
	// data of a reply: IPv4 in the first four bytes on an IPv4 socket, else
	// IPv6 with IPv4 as 4-in-6. Zero if the socket does not ask for it.
	local [16]byte
	// segment is the size of the datagrams that the kernel put together in a
	// train, all but the last of which are of this size; 0 for one datagram.
	segment int
}

// arrival reads the control data of the i-th datagram (ip(7), ipv6(7), udp(7)).
func (b *inbox) arrival(i int) (a arrival) {
	data := b.controls[i].bytes()[:min(controlSize, b.messages[i].Controllen)]
	for len(data) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(data)))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr || length > len(data) {
			return a
		}
		a.take(h, data[unix.SizeofCmsghdr:length])
		data = data[min(len(data), (length+7)&^7):]
	}
	return a
}

func (a *arrival) take(h *unix.Cmsghdr, value []byte) {
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(value) == unix.SizeofInet4Pktinfo:
		copy(a.local[:4], value[4:8]) // ipi_spec_dst: also of a broadcast the host's own address
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(value) == unix.SizeofInet6Pktinfo:
		copy(a.local[:], value)
	case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(value) >= 2:
		a.segment = int(binary.NativeEndian.Uint16(value)) // an int of 16 bits' worth, little-endian
	}
}
