package datagram

import (
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
	"unproxy/integration_test/errnos"
)

// fault makes the n-th call of a method fail, while the victim has flows or not, and, if it lasts, the
// later ones.
type fault struct {
	method string
	flows  bool
	nth    int
	errno  syscall.Errno
	lasts  bool
}

// place is where a call can fail: its method, and whether the victim has flows.
type place struct {
	method string
	flows  bool
}

// faulty is a scripted kernel that records the calls made for the second listener and its flows, the
// victim, and makes them fail.
type faulty struct {
	*script
	relay *Relay // nil until the worker has been created
	armed bool
	fault *fault
	made  map[place]int // calls while armed
	hit   int           // calls that failed
}

// maxRepeated is how often in a row an error comes that says that the call may be repeated, or that is
// about one datagram.
const maxRepeated = 3

// concernsOthers reports whether a call with a descriptor is not made for the victim.
func (k *faulty) concernsOthers(fd int) bool {
	return k.relay != nil && (fd == k.relay.workers[0].listeners[0].fd || k.sockets[fd-3].to == otherServer)
}

// fail returns the error of a call with some descriptors, 0 if it is to be made.
func (k *faulty) fail(method string, fds ...int) syscall.Errno {
	if !k.armed {
		return 0
	}
	for _, fd := range fds {
		if k.concernsOthers(fd) {
			return 0
		}
	}
	at := place{method, k.relay != nil && k.relay.workers[0].lists[1].first != nil}
	n := k.made[at]
	k.made[at]++
	f := k.fault
	if f == nil || f.method != method {
		return 0
	}
	begins := k.hit == 0 && at.flows == f.flows && n == f.nth
	if !begins && (k.hit == 0 || !f.lasts || f.repeats() && k.hit >= maxRepeated) {
		return 0
	}
	k.hit++
	return f.errno
}

func (k *faulty) Socket(family int) (int, syscall.Errno) {
	if errno := k.fail("Socket"); errno != 0 {
		return -1, errno
	}
	return k.script.Socket(family)
}

func (k *faulty) SetOption(fd, level, name, value int) syscall.Errno {
	if errno := k.fail("SetOption", fd); errno != 0 {
		return errno
	}
	return k.script.SetOption(fd, level, name, value)
}

func (k *faulty) Bind(fd int, a netip.AddrPort) syscall.Errno {
	if errno := k.fail("Bind", fd); errno != 0 {
		return errno
	}
	return k.script.Bind(fd, a)
}

func (k *faulty) Connect(fd int, to netip.AddrPort) syscall.Errno {
	if errno := k.fail("Connect", fd); errno != 0 {
		return errno
	}
	return k.script.Connect(fd, to)
}

func (k *faulty) LocalAddr(fd int) (netip.AddrPort, syscall.Errno) {
	if errno := k.fail("LocalAddr", fd); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return k.script.LocalAddr(fd)
}

func (k *faulty) Receive(fd int, m []Message) (int, syscall.Errno) {
	if errno := k.fail("Receive", fd); errno != 0 {
		return 0, errno
	}
	return k.script.Receive(fd, m)
}

func (k *faulty) Send(fd int, m []Message) (int, syscall.Errno) {
	if errno := k.fail("Send", fd); errno != 0 {
		return 0, errno
	}
	return k.script.Send(fd, m)
}

func (k *faulty) Read(fd int, b []byte) (int, syscall.Errno) {
	if errno := k.fail("Read", fd); errno != 0 {
		return 0, errno
	}
	return k.script.Read(fd, b)
}

func (k *faulty) Write(fd int, b []byte) syscall.Errno {
	if errno := k.fail("Write", fd); errno != 0 {
		return errno
	}
	return k.script.Write(fd, b)
}

func (k *faulty) Overflows(fd int) (uint32, syscall.Errno) {
	if errno := k.fail("Overflows", fd); errno != 0 {
		return 0, errno
	}
	return k.script.Overflows(fd)
}

func (k *faulty) Duplicate(fd int) (int, syscall.Errno) {
	if errno := k.fail("Duplicate"); errno != 0 {
		return -1, errno
	}
	return k.script.Duplicate(fd)
}

// watch is Host.Watch.
func (k *faulty) watch(fd int) syscall.Errno { return k.fail("Host.Watch", fd) }

func (k *faulty) Batch(n int) kernel.Batch {
	if k.fail("Batch") != 0 {
		return nil
	}
	b := k.script.Batch(n)
	if b == nil {
		return nil
	}
	return faultyBatch{b, k}
}

// faultyBatch makes one transfer after the other, each of which can fail.
type faultyBatch struct {
	kernel.Batch
	kernel *faulty
}

func (b faultyBatch) Recv(all []kernel.Transfer) { b.each("Batch.Recv", all, b.Batch.Recv) }
func (b faultyBatch) Send(all []kernel.Transfer) { b.each("Batch.Send", all, b.Batch.Send) }

func (b faultyBatch) each(method string, all []kernel.Transfer, move func([]kernel.Transfer)) {
	for i := range all {
		t := &all[i]
		if t.N, t.Errno = 0, b.kernel.fail(method, t.FD); t.Errno == 0 {
			move(all[i : i+1])
		}
	}
}

// repeats reports whether the error comes at most maxRepeated times.
func (f *fault) repeats() bool {
	switch f.errno {
	case unix.EAGAIN, unix.EINTR:
		return true
	}
	return f.method != "Connect" && slices.Contains(errnos.Network, f.errno)
}
