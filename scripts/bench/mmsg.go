package main

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch holds the datagrams of one system call, each of up to size bytes.
type batch struct {
	headers  []header
	vectors  []unix.Iovec
	names    []unix.RawSockaddrInet4
	controls [][8]uint64
	data     []byte
	size     int
}

// header is a struct mmsghdr.
type header struct {
	unix.Msghdr
	length uint32
}

func newBatch(n, size int) *batch {
	b := &batch{
		headers: make([]header, n), vectors: make([]unix.Iovec, n), names: make([]unix.RawSockaddrInet4, n),
		controls: make([][8]uint64, n), data: make([]byte, n*size), size: size,
	}
	for i := range b.headers {
		b.vectors[i].Base = &b.data[i*size]
		b.headers[i].Iov = &b.vectors[i]
		b.headers[i].Iovlen = 1
		b.headers[i].Name = (*byte)(unsafe.Pointer(&b.names[i]))
		b.headers[i].Control = (*byte)(unsafe.Pointer(&b.controls[i]))
	}
	return b
}

func (b *batch) slot(i int) []byte { return b.data[i*b.size : (i+1)*b.size] }

// receive receives datagrams with their source and destination addresses. It waits for
// the first one for at most the socket's SO_RCVTIMEO.
func (b *batch) receive(fd int) (int, error) {
	for i := range b.headers {
		b.vectors[i].SetLen(b.size)
		b.headers[i].Namelen = unix.SizeofSockaddrInet4
		b.headers[i].Controllen = 64
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.headers[0])),
		uintptr(len(b.headers)), unix.MSG_WAITFORONE, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// to sets the destination of datagram i, and its source address unless that is 0.0.0.0.
func (b *batch) to(i int, address unix.RawSockaddrInet4, from [4]byte) {
	b.names[i] = address
	b.headers[i].Namelen = unix.SizeofSockaddrInet4
	b.headers[i].Controllen = 0
	if from == ([4]byte{}) {
		return
	}
	c := (*struct {
		unix.Cmsghdr
		unix.Inet4Pktinfo
	})(unsafe.Pointer(&b.controls[i]))
	c.Cmsghdr = unix.Cmsghdr{Len: unix.SizeofCmsghdr + unix.SizeofInet4Pktinfo, Level: unix.IPPROTO_IP,
		Type: unix.IP_PKTINFO}
	c.Inet4Pktinfo = unix.Inet4Pktinfo{Spec_dst: from}
	b.headers[i].Controllen = 32
}

// send sends the first n datagrams, with the lengths that are set. Datagrams that the
// kernel does not accept are dropped.
func (b *batch) send(fd, n int) {
	for sent := 0; sent < n; {
		got, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.headers[sent])),
			uintptr(n-sent), 0, 0, 0)
		if errno != 0 {
			got = 1
		}
		sent += int(got)
	}
}

// socket opens a UDP socket on an address of 127.0.0.0/8 with large buffers and a receive
// timeout.
func socket(addr [4]byte, port int, wait unix.Timeval) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20)
	unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: addr}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

func rawAddress(addr [4]byte, port uint16) unix.RawSockaddrInet4 {
	return unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr, Port: port<<8 | port>>8}
}

// isTimeout reports whether err is the receive timeout.
func isTimeout(err error) bool { return err == syscall.EAGAIN || err == syscall.EINTR }
