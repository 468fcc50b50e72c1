package engine

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
)

// refusals are the errors of splice(2) that do not end a session: memory is short, or the kind of
// socket, the kernel, a seccomp filter or a security module does not allow it.
var refusals = []syscall.Errno{unix.ENOMEM, unix.ENOBUFS, unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.EACCES,
	unix.EOPNOTSUPP}

// If splice(2) is refused, from the start or later, in either direction, with fast and slow
// readers, no byte is lost or reordered, and the session continues by copying.
func TestSpliceRefusedCopies(t *testing.T) {
	for _, errno := range refusals {
		for _, good := range []int{0, 1, 3} {
			for _, drains := range []int{1, 2, 1000} {
				if drains < 1000 && (errno == unix.EACCES || errno == unix.EOPNOTSUPP) {
					continue // these are not intermittent
				}
				for _, room := range []int{20000, 64 << 20} {
					t.Run(fmt.Sprintf("%v after %d, out %d times, room %d", errno, good, drains, room),
						func(t *testing.T) { spliceRefused(t, errno, good, drains, room) })
				}
			}
		}
	}
}

func spliceRefused(t *testing.T, errno syscall.Errno, good, drains, room int) {
	k := newScript(t, 0)
	k.sendRoom = room
	r := newRig(t, k, Config{Forwards: []*forward.Forward{plainForward(serverA)}})
	peer := r.open(header)
	server := r.backend()
	k.spliceError, k.goodSplices, k.drainErrors = errno, good, drains
	up, down := randomBytes(10*bufferSize+7), randomBytes(8*bufferSize+1)
	peer.deliver(up)
	server.deliver(down)
	r.settle()
	for len(server.received) < len(up) || len(peer.received) < len(down) {
		before := len(server.received) + len(peer.received)
		server.consume(1 << 20)
		peer.consume(1 << 20)
		r.settle()
		if len(server.received)+len(peer.received) == before {
			break
		}
	}
	if !bytes.Equal(server.received, up) || !bytes.Equal(peer.received, down) {
		t.Errorf("%d of %d and %d of %d bytes arrived, or different ones", len(server.received), len(up),
			len(peer.received), len(down))
	}
	finishBoth(r, peer)
	c := r.expectEnd(1, record.OK, record.Relay, record.Client)
	if c.BytesIn != int64(len(up)) || c.BytesOut != int64(len(down)) {
		t.Errorf("counted %d and %d bytes", c.BytesIn, c.BytesOut)
	}
	r.expectClean()
}

// An error of the socket ends the session, even one that a security module might return: the pipe
// is empty, so splice(2) was not refused.
func TestSpliceErrorOfSocketEndsSession(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.ECONNRESET, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.EPIPE,
		unix.EACCES, unix.EOPNOTSUPP} {
		r := newUnblockedRig(t, plainForward(serverA))
		peer := r.open(header)
		r.spliceError = errno
		peer.deliver(randomBytes(20 * bufferSize))
		r.settle()
		if c := r.lastRecord(1); c.Outcome != record.Reset || c.Reason != errno.Error() || !r.backend().gotRST {
			t.Errorf("%v: ended %v (%s)", errno, c.Outcome, c.Reason)
		}
		r.expectClean()
	}
}

// unreliable is the real kernel with a splice(2) that fails intermittently.
type unreliable struct {
	kernel.Kernel
	errno syscall.Errno
	calls atomic.Uint64
}

func (k *unreliable) Splice(from, to, n int) (int, syscall.Errno) {
	if k.calls.Add(1)%3 == 0 {
		return 0, k.errno
	}
	return k.Kernel.Splice(from, to, n)
}

func TestRealSpliceFails(t *testing.T) {
	for _, errno := range refusals {
		if errno == unix.EACCES || errno == unix.EOPNOTSUPP {
			continue
		}
		t.Run(errno.Error(), func(t *testing.T) {
			ln, to := server(t)
			l := startRealWith(t, Config{Forwards: []*forward.Forward{loopback(to)},
				Kernel: &unreliable{Kernel: kernel.System(), errno: errno}})
			client := l.dial(0, header)
			backend := accept(t, ln)
			data := randomBytes(30<<20 + 1)
			go sendAll(t, client, data)
			expectAll(t, backend, data)
			go sendAll(t, backend, data)
			expectAll(t, client, data)
			l.expectRecord(record.OK, record.Client)
		})
	}
}
