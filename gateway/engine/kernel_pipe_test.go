package engine

import (
	"syscall"

	"unproxy/gateway/kernel"

	"golang.org/x/sys/unix"
)

type pipeBytes struct {
	bytes []byte
	room  int
}

func (k *script) Pipe(size int) (kernel.Pipe, syscall.Errno) {
	if k.pipeErrors != 0 {
		return kernel.Pipe{}, k.pipeErrors
	}
	if k.full() {
		return kernel.Pipe{}, unix.EMFILE
	}
	if k.pipeRoom > 0 {
		size = min(size, k.pipeRoom)
	}
	r, w := k.create(pipeRead), k.create(pipeWrite)
	r.pipe = &pipeBytes{room: size}
	w.pipe = r.pipe
	return kernel.Pipe{Read: r.fd, Write: w.fd, Size: size}, 0
}

// Splice moves bytes from a socket to a pipe, or from a pipe to a socket.
func (k *script) Splice(from, to, n int) (int, syscall.Errno) {
	f, g := k.file(from, "Splice", stream, pipeRead), k.file(to, "Splice", stream, pipeWrite)
	k.splices++
	if k.chance(16) {
		return 0, unix.EINTR
	}
	if f.kind == stream {
		return k.spliceIn(f, g.pipe, n)
	}
	return k.spliceOut(f.pipe, g, n)
}

// ReadPipe is read(2) on a pipe.
func (k *script) ReadPipe(fd int, b []byte) (int, syscall.Errno) {
	p := k.file(fd, "ReadPipe", pipeRead).pipe
	if k.chance(16) {
		return 0, unix.EINTR
	}
	if len(p.bytes) == 0 {
		k.Errorf("ReadPipe of an empty pipe")
		return 0, unix.EAGAIN
	}
	n := copy(b[:k.partial(min(len(b), len(p.bytes)))], p.bytes)
	p.bytes = p.bytes[:copy(p.bytes, p.bytes[n:])]
	return n, 0
}

func (k *script) spliceIn(f *file, p *pipeBytes, n int) (int, syscall.Errno) {
	if k.spliceError != 0 && k.goodSplices == 0 {
		k.probed = true
		return 0, k.spliceError
	}
	k.goodSplices = max(0, k.goodSplices-1)
	if len(p.bytes) > 0 {
		k.Errorf("Splice into a pipe that holds %d bytes", len(p.bytes))
	}
	m, errno := f.readable(false)
	if errno != 0 || m == 0 {
		return 0, errno
	}
	m = k.partial(min(m, n, p.room-len(p.bytes)))
	p.bytes = append(p.bytes, f.rx[f.read:f.read+m]...)
	f.read += m
	return m, 0
}

func (k *script) spliceOut(p *pipeBytes, f *file, n int) (int, syscall.Errno) {
	if k.drainErrors > 0 && k.spliceError != 0 {
		k.drainErrors--
		return 0, k.spliceError
	}
	if len(p.bytes) == 0 {
		if !k.probed {
			k.Errorf("Splice out of an empty pipe")
		}
		return 0, unix.EAGAIN
	}
	if errno := f.writable(); errno != 0 {
		return 0, errno
	}
	m := k.partial(min(n, len(p.bytes), f.space()))
	f.received = append(f.received, p.bytes[:m]...)
	p.bytes = p.bytes[:copy(p.bytes, p.bytes[m:])]
	return m, 0
}
