package datagram

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is the maximum number of datagrams of one system call.
	batchSize = 64
	// slotSize fits the largest datagram, and the largest GRO batch (UDP_GRO
	// in udp(7)).
	slotSize = 64 << 10
	// slotStride spreads the starts of the slots over the sets of the L1 cache,
	// which the low 12 bits of an address select.
	slotStride = slotSize + 3*64
	// controlSize fits IPV6_PKTINFO and UDP_GRO, or UDP_SEGMENT.
	controlSize = 64
)

// control is the buffer for a message's control data, aligned as cmsg(3) requires.
type control [controlSize / 8]uint64

func (c *control) bytes() *[controlSize]byte { return (*[controlSize]byte)(unsafe.Pointer(c)) }

// inbox is the buffer for a batch of received datagrams. Its content is valid until
// the next call that receives into the same slots.
type inbox struct {
	messages [batchSize]Message
	vectors  [batchSize]unix.Iovec
	names    [batchSize]unix.RawSockaddrInet6
	controls [batchSize]control
	buffer   []byte
	used     int // slots in use
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

// unused returns up to n messages to receive into, without the sender's address,
// which a connected socket does not need.
func (b *inbox) unused(n int) []Message {
	n = min(n, batchSize-b.used)
	list := b.messages[b.used : b.used+n]
	for i := range list {
		list[i].Control = (*byte)(unsafe.Pointer(&b.controls[b.used+i]))
		list[i].SetControllen(controlSize)
	}
	return list
}

// named returns all messages to receive into, with buffers for the senders'
// addresses.
func (b *inbox) named() []Message {
	b.used = 0
	list := b.unused(batchSize)
	for i := range list {
		list[i].Name = (*byte)(unsafe.Pointer(&b.names[i]))
		list[i].Namelen = unix.SizeofSockaddrInet6
	}
	return list
}

// slot returns the buffer of the i-th datagram.
func (b *inbox) slot(i int) []byte {
	at := i * slotStride
	return b.buffer[at : at+slotSize : at+slotSize]
}

// arrival is the control data of a received datagram.
type arrival struct {
	// local is the destination address in the form that the control data of a
	// reply needs: IPv4 in the first four bytes on an IPv4 socket, else IPv6
	// with IPv4 mapped. Zero if the socket does not ask for it.
	local [16]byte
	// segment is the size of the datagrams of a GRO batch; the last one may be
	// smaller. 0 is a single datagram.
	segment int
}

// arrival reads the control data of the i-th datagram (ip(7), ipv6(7), udp(7)).
func (b *inbox) arrival(i int) (a arrival) {
	data := b.controls[i].bytes()[:min(controlSize, b.messages[i].Controllen)]
	for len(data) >= unix.SizeofCmsghdr {
		h, value, rest, err := unix.ParseOneSocketControlMessage(data)
		if err != nil {
			return a
		}
		a.take(h, value)
		data = rest
	}
	return a
}

func (a *arrival) take(h unix.Cmsghdr, value []byte) {
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(value) == unix.SizeofInet4Pktinfo:
		copy(a.local[:4], value[4:8]) // ipi_spec_dst: the host's own address, also for a broadcast
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(value) == unix.SizeofInet6Pktinfo:
		copy(a.local[:], value)
	case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(value) >= 2:
		a.segment = int(binary.NativeEndian.Uint16(value)) // an int that holds 16 bits, little-endian
	}
}
