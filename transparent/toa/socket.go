package toa

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The level and the name of the socket option.
const (
	Level        = 0x554e50
	OptionClient = 1
)

// Record is the client of a socket, and how its address travels.
type Record struct {
	// Client must be valid and have no zone. It is unmapped.
	Client netip.AddrPort
	Format Format
}

// Value is what setsockopt(2) takes; the package's documentation has its layout.
type Value [24]byte

// Value returns the value of a record.
func (r Record) Value() (v Value) {
	address := r.Client.Addr().Unmap()
	family := uint16(unix.AF_INET6)
	if address.Is4() {
		family = unix.AF_INET
	}
	binary.NativeEndian.PutUint16(v[0:], family)
	binary.BigEndian.PutUint16(v[2:], r.Client.Port())
	if address.Is4() {
		v4 := address.As4()
		copy(v[4:], v4[:])
	} else {
		v6 := address.As16()
		copy(v[4:], v6[:])
	}
	binary.NativeEndian.PutUint32(v[20:], uint32(r.Format))
	return v
}

// Record returns the record of a value. ok is false if a value has no such family or format. It is the
// inverse of [Record.Value].
func (v Value) Record() (r Record, ok bool) {
	port := binary.BigEndian.Uint16(v[2:])
	r.Format = Format(binary.NativeEndian.Uint32(v[20:]))
	switch binary.NativeEndian.Uint16(v[0:]) {
	case unix.AF_INET:
		r.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(v[4:8])), port)
	case unix.AF_INET6:
		r.Client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(v[4:20])), port)
	default:
		return Record{}, false
	}
	return r, r.Format <= Legacy
}

// Reply is what getsockopt(2) returns; the package's documentation has its layout.
type Reply [8]byte

// State is how far the client's address of a socket got.
type State struct {
	// Promised means that the backend's host makes its server see the client. It is false until the
	// connection is established.
	Promised bool
	// Acknowledged means that the backend has acknowledged a byte after the SYN, or sent one: the
	// connection was accepted, and with [Negotiated] the client's address was read.
	Acknowledged bool
	// Written is the number of packets that have carried the address.
	Written uint32
}

// State returns the meaning of a reply.
func (r Reply) State() State {
	return State{Promised: r[0] != 0, Acknowledged: r[1] != 0, Written: binary.NativeEndian.Uint32(r[4:])}
}

// Sockets are the two system calls of this package. [System] makes them.
type Sockets interface {
	// SetClient is setsockopt(2) with [Level], [OptionClient] and a value.
	SetClient(fd int, v Value) syscall.Errno
	// ClientState is getsockopt(2) of the same option.
	ClientState(fd int) (Reply, syscall.Errno)
}

// Set gives the programs on this host the client of the TCP socket fd. Call it before connect(2). The
// error is ENOPROTOOPT if no program is attached to the socket's cgroup, EPERM if the program refuses.
func Set(k Sockets, fd int, r Record) syscall.Errno {
	if !r.Client.IsValid() || r.Client.Addr().Zone() != "" {
		return unix.EINVAL
	}
	return k.SetClient(fd, r.Value())
}

// Progress returns how far the client's address of the socket fd got.
func Progress(k Sockets, fd int) (State, syscall.Errno) {
	r, errno := k.ClientState(fd)
	if errno != 0 {
		return State{}, errno
	}
	return r.State(), 0
}

// System implements [Sockets] with the system calls, which do not block.
type System struct{}

// SetClient implements [Sockets].
func (System) SetClient(fd int, v Value) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), Level, OptionClient,
		uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	return errno
}

// ClientState implements [Sockets].
func (System) ClientState(fd int) (r Reply, errno syscall.Errno) {
	n := uint32(len(r))
	_, _, errno = unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), Level, OptionClient,
		uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(&n)), 0)
	if errno == 0 && int(n) != len(r) {
		errno = unix.EPROTO // another program answers for this level
	}
	return r, errno
}
