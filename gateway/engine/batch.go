package engine

import (
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Transfer is one read or write of several that are made together.
type Transfer struct {
	FD int
	// B is the room for what is read, or what is to be written; not empty.
	B []byte
	// N is how many bytes were moved, Errno what kept more from being; 0 and no
	// error is for a read the end of the stream.
	N     int
	Errno syscall.Errno
}

// Batch makes reads or writes of many sockets with one system call. It belongs
// to one goroutine.
type Batch interface {
	// Recv and Send do for each transfer what the Kernel's calls of that name
	// do, in order.
	Recv(all []Transfer)
	Send(all []Transfer)
	// Close gives up what it took.
	Close()
}

// aio is a context of Linux's native asynchronous I/O, io_submit(2). On sockets
// that do not block there is nothing asynchronous to it: each transfer is done
// when the call returns (aio_rw_done), at a fraction of what a call of its own costs
// where entering the kernel is dear, and at about the same where it is cheap.
type aio struct {
	context  uintptr
	ring     *aioRing
	events   []aioEvent // the ring's
	blocks   []controlBlock
	pointers []*controlBlock
}

// controlBlock is struct iocb of linux/aio_abi.h, on a little-endian machine.
type controlBlock struct {
	data      uint64
	_         [2]uint32
	operation uint16
	_         int16
	fd        uint32
	buffer    uint64
	size      uint64
	_         [3]uint64
}

// The operations, IOCB_CMD_PREAD and IOCB_CMD_PWRITE.
const (
	readOperation  = 0
	writeOperation = 1
)

// aioEvent is struct io_event.
type aioEvent struct {
	data, block   uint64
	result, extra int64
}

// aioRing is what a context points at (struct aio_ring of fs/aio.c): finished
// transfers are taken from it without a call.
type aioRing struct {
	id, size           uint32
	head, tail         uint32
	magic              uint32
	compatible         uint32
	incompatible, room uint32 // room is the length of this header
}

const aioRingMagic = 0xa10a10a1

// newAIO opens a context for up to n transfers at once. ok is false where the
// system has none to give: fs.aio-max-nr is used up, a filter of system calls is in
// the way, or the kernel was built without it.
func newAIO(n int) (a *aio, ok bool) {
	a = &aio{blocks: make([]controlBlock, n), pointers: make([]*controlBlock, n)}
	if _, errno := call3(unix.SYS_IO_SETUP, uintptr(n), uintptr(unsafe.Pointer(&a.context)), 0); errno != 0 {
		return nil, false
	}
	a.ring = *(**aioRing)(unsafe.Pointer(&a.context)) // the kernel's memory, which does not move
	if a.ring.magic != aioRingMagic || a.ring.incompatible != 0 {
		a.Close()
		return nil, false
	}
	a.events = unsafe.Slice((*aioEvent)(unsafe.Add(unsafe.Pointer(a.ring), a.ring.room)), a.ring.size)
	for i := range a.blocks {
		a.pointers[i] = &a.blocks[i]
	}
	return a, true
}

func (a *aio) Close() { call3(unix.SYS_IO_DESTROY, a.context, 0, 0) }

func (a *aio) Recv(all []Transfer) {
	a.each(all, readOperation, func(t *Transfer) { t.N, t.Errno = linux{}.Recv(t.FD, t.B) })
}

// Send differs from the Kernel's in that a connection that is gone raises SIGPIPE
// as well, which the runtime ignores for a socket (package os/signal).
func (a *aio) Send(all []Transfer) {
	a.each(all, writeOperation, func(t *Transfer) { t.N, t.Errno = linux{}.Send(t.FD, t.B) })
}

// each makes the transfers, and those that io_submit(2) did not take one by one.
func (a *aio) each(all []Transfer, operation uint16, alone func(*Transfer)) {
	for len(all) > 0 {
		some := all[:min(len(all), len(a.blocks))]
		done := a.submit(some, operation)
		for i := range some[done:] {
			alone(&some[done+i])
		}
		all = all[len(some):]
	}
}

// submit makes transfers and returns how many of them it made.
func (a *aio) submit(all []Transfer, operation uint16) int {
	for i := range all {
		t := &all[i]
		a.blocks[i] = controlBlock{
			data: uint64(i), operation: operation, fd: uint32(t.FD),
			buffer: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(t.B)))), size: uint64(len(t.B)),
		}
	}
	n, errno := call3(unix.SYS_IO_SUBMIT, a.context, uintptr(len(all)), uintptr(unsafe.Pointer(unsafe.SliceData(a.pointers))))
	if errno != 0 {
		return 0
	}
	a.collect(all, int(n))
	return int(n)
}

// collect takes the results of n transfers from the ring.
func (a *aio) collect(all []Transfer, n int) {
	head := a.ring.head
	for range n {
		if head == atomic.LoadUint32(&a.ring.tail) {
			panic(os.NewSyscallError("io_submit", unix.EINPROGRESS)) // a socket that blocks: there is none
		}
		event := &a.events[head]
		t := &all[event.data]
		t.N, t.Errno = int(max(0, event.result)), syscall.Errno(max(0, -event.result))
		if head++; head == uint32(len(a.events)) {
			head = 0
		}
	}
	atomic.StoreUint32(&a.ring.head, head)
}
