package datagram

import (
	"encoding/binary"
	"net/netip"

	"unproxy/gateway/kernel"
)

// codec writes values to a message, or reads them from one. A type lists its fields
// once, for both directions. Numbers have a variable length (binary.Uvarint). After
// an error, broken is set and the values that follow are undefined.
type codec struct {
	b       []byte // written so far, or not read yet
	reading bool
	broken  bool // the message is shorter than its values, or one makes no sense
}

// take reads n bytes. It returns nil if there are fewer.
func (c *codec) take(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.broken, c.b = true, nil
		return nil
	}
	taken := c.b[:n]
	c.b = c.b[n:]
	return taken
}

func (c *codec) uint64(v *uint64) {
	if !c.reading {
		c.b = binary.AppendUvarint(c.b, *v)
		return
	}
	got, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.broken, c.b, *v = true, nil, 0
		return
	}
	*v, c.b = got, c.b[n:]
}

// number codes an integer of any type. It is broken if the value does not fit.
func number[T ~uint8 | ~uint16 | ~uint32 | ~int64 | ~uintptr](c *codec, v *T) {
	wide := uint64(*v)
	c.uint64(&wide)
	if c.reading {
		*v = T(wide)
		c.broken = c.broken || uint64(*v) != wide || *v < 0
	}
}

func (c *codec) bool(v *bool) {
	bit := uint8(kernel.Bool(*v))
	number(c, &bit)
	if c.reading {
		*v = bit == 1
		c.broken = c.broken || bit > 1
	}
}

// array codes a fixed number of bytes.
func (c *codec) array(v []byte) {
	if !c.reading {
		c.b = append(c.b, v...)
		return
	}
	copy(v, c.take(uint64(len(v))))
}

// bytes codes a length and that number of bytes. A value that is read aliases the
// message.
func (c *codec) bytes(v *[]byte) {
	n := uint64(len(*v))
	c.uint64(&n)
	if !c.reading {
		c.b = append(c.b, *v...)
		return
	}
	*v = c.take(n)
}

// text codes a string of at most most bytes.
func (c *codec) text(v *string, most int) {
	b := []byte(*v)
	c.bytes(&b)
	if c.reading {
		*v = string(b)
		c.broken = c.broken || len(b) > most
	}
}

// addrPort codes an address, which may be invalid, without its zone.
func (c *codec) addrPort(v *netip.AddrPort) {
	b := v.Addr().AsSlice()
	c.bytes(&b)
	port := v.Port()
	number(c, &port)
	if !c.reading {
		return
	}
	addr, ok := netip.AddrFromSlice(b)
	*v = netip.AddrPortFrom(addr, port)
	c.broken = c.broken || !ok && (len(b) > 0 || port > 0)
}
