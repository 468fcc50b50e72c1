package kernel

import (
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Transfer is one read or write of a [Batch].
type Transfer struct {
	FD int
	// B is the buffer to read into or the bytes to write; never empty.
	B []byte
	// N is the number of bytes moved, and Errno the error that stopped the
	// transfer. For a read, 0 without an error is the end of the stream.
	N     int
	Errno syscall.Errno
}

// Batch reads from or writes to many sockets with one system call. It is not
// safe for concurrent use.
type Batch interface {
	// Recv and Send perform the transfers in order, each like the [Kernel]'s
	// call of the same name.
	Recv(all []Transfer)
	Send(all []Transfer)
	// Close releases the kernel's resources.
	Close()
}

// aio is a context of Linux's native asynchronous I/O, see io_submit(2). On
// non-blocking sockets it is synchronous: each transfer is complete when the call
// returns (aio_rw_done). Where entering the kernel is expensive, it saves most of that
// cost; elsewhere it costs about the same as single calls.
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

// aioRing is the memory that a context points at (struct aio_ring in fs/aio.c).
// Results are read from it without a system call.
type aioRing struct {
	id, size           uint32
	head, tail         uint32
	magic              uint32
	compatible         uint32
	incompatible, room uint32 // room is the length of this header
}

const aioRingMagic = 0xa10a10a1

// newAIO opens a context for up to n transfers at once. ok is false if the system
// refuses: fs.aio-max-nr is used up, a seccomp filter forbids the call, or the
// kernel was built without it.
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

// Send also raises SIGPIPE for a closed connection, which the Go runtime ignores
// for sockets (package os/signal).
func (a *aio) Send(all []Transfer) {
	a.each(all, writeOperation, func(t *Transfer) { t.N, t.Errno = linux{}.Send(t.FD, t.B) })
}

// each performs the transfers; those that io_submit(2) did not take, one by one.
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

// submit performs transfers and returns how many io_submit(2) took.
func (a *aio) submit(all []Transfer, operation uint16) int {
	for i := range all {
		t := &all[i]
		a.blocks[i] = controlBlock{
			data: uint64(i), operation: operation, fd: uint32(t.FD),
			buffer: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(t.B)))), size: uint64(len(t.B)),
		}
	}
	n, errno := call3(unix.SYS_IO_SUBMIT, a.context, uintptr(len(all)),
		uintptr(unsafe.Pointer(unsafe.SliceData(a.pointers))))
	if errno != 0 {
		return 0
	}
	a.collect(all, int(n))
	return int(n)
}

// collect reads the results of n transfers from the ring.
func (a *aio) collect(all []Transfer, n int) {
	head := a.ring.head
	for range n {
		if head == atomic.LoadUint32(&a.ring.tail) {
			panic(os.NewSyscallError("io_submit", unix.EINPROGRESS)) // only for a blocking socket
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
