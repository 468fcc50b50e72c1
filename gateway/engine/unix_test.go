package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// unixRig is a rig whose peer and backend are on unix sockets, with some established connections.
func unixRig(t *testing.T, connections int) (r *rig, peers, backends []*file) {
	r = newForwardRig(t, plainForward(serverUnix))
	for range connections {
		peers = append(peers, r.openFrom(0, lbUnix, header))
		backends = append(backends, r.backend())
	}
	return r, peers, backends
}

// lbUnix is the address of a peer on a unix socket.
var lbUnix netip.AddrPort

// Bytes after a short read arrive, without a further event: a read from a unix socket ends where a
// descriptor was passed along.
func TestShortReadOfUnixSocketIsNotTheEnd(t *testing.T) {
	for _, many := range []int{1, minBatch, batchSize + 1} {
		for _, size := range []int{3, slotSize, bulkRead} {
			t.Run(fmt.Sprintf("%d connections, %d bytes", many, size), func(t *testing.T) {
				r, peers, backends := unixRig(t, many)
				want := bytes.Repeat([]byte{'x'}, 8*size)
				for i := range peers {
					for j := 0; j < len(want); j += size {
						peers[i].deliverPassing(want[j : j+size])
						backends[i].deliverPassing(want[j : j+size])
					}
				}
				r.settle()
				for i := range peers {
					for range 20 {
						peers[i].consume(1 << 20)
						backends[i].consume(1 << 20)
						r.settle()
					}
					if !bytes.Equal(backends[i].received, want) || !bytes.Equal(peers[i].received, want) {
						t.Fatalf("%d and %d bytes arrived, want %d", len(backends[i].received), len(peers[i].received),
							len(want))
					}
				}
				r.engine.Cut()
				r.settle()
				r.expectClean()
			})
		}
	}
}

// The same within the header.
func TestShortReadWithinTheHeader(t *testing.T) {
	for cut := 1; cut <= len(header); cut++ {
		r := newForwardRig(t, plainForward(serverUnix))
		f := r.arrive(r.listenerSocket(0), lbUnix)
		f.deliverPassing([]byte(header[:cut]))
		f.deliverPassing([]byte(header[cut:] + "pay"))
		f.deliverPassing([]byte("load"))
		r.settle()
		if len(r.dials) != 1 || string(r.backend().received) != "payload" {
			t.Fatalf("cut after %d: the backend received %q", cut, r.backend().received)
		}
		r.engine.Cut()
		r.settle()
		r.expectClean()
	}
}

// Both sides of every connection on a unix socket keep urgent data in line.
func TestUnixSocketsKeepUrgentDataInLine(t *testing.T) {
	_, peers, backends := unixRig(t, 1)
	for _, f := range []*file{peers[0], backends[0]} {
		if len(f.options) != 1 || f.options[0] != urgentInLine {
			t.Errorf("options %v", f.options)
		}
	}
}

// unixPair is a client and a backend on unix sockets that are connected through an engine.
func unixPair(t *testing.T) (client, backend *net.UnixConn) {
	t.Helper()
	dir := t.TempDir()
	ln := listen(t, "unix", filepath.Join(dir, "backend"))
	f := loopback(forward.Endpoint{Path: filepath.Join(dir, "backend")})
	f.Listeners[0].Endpoint = forward.Endpoint{Path: filepath.Join(dir, "front")}
	l := startReal(t, f)
	client = l.dial(0, header).(*net.UnixConn)
	return client, accept(t, ln).(*net.UnixConn)
}

// passing sends b with the write end of a new pipe, and returns the pipe's read end.
func passing(t *testing.T, conn *net.UnixConn, b []byte) (read *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	for len(b) > 0 {
		n, _, err := conn.WriteMsgUnix(b, unix.UnixRights(int(w.Fd())), nil)
		if err != nil {
			t.Error(err)
			return r
		}
		b = b[n:]
	}
	return r
}

// What is sent together with descriptors arrives, in both directions, in small and large pieces, and
// the descriptors are closed as soon as it was read.
func TestRealPassedDescriptorsAreClosed(t *testing.T) {
	for _, size := range []int{5, 20 << 10, 150 << 10} {
		for _, up := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d bytes, up %v", size, up), func(t *testing.T) {
				from, to := unixPair(t)
				if !up {
					from, to = to, from
				}
				const messages = 40
				data := randomBytes(size * messages)
				pipes := make(chan *os.File, messages)
				go func() {
					defer close(pipes)
					for i := range messages {
						pipes <- passing(t, from, data[i*size:(i+1)*size])
					}
				}()
				got := make([]byte, len(data))
				if n, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d bytes of %d arrived (%v), or different ones", n, len(data), err)
				}
				for r := range pipes {
					r.SetReadDeadline(time.Now().Add(testTimeout))
					if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
						t.Fatalf("the gateway holds a descriptor that was passed to it: %v", err)
					}
				}
			})
		}
	}
}

// Two messages that both pass a descriptor raise one event.
func TestRealMessagesAfterAPassedDescriptor(t *testing.T) {
	dir := t.TempDir()
	ln := listen(t, "unix", filepath.Join(dir, "backend"))
	f := loopback(forward.Endpoint{Path: filepath.Join(dir, "backend")})
	f.Listeners[0].Endpoint = forward.Endpoint{Path: filepath.Join(dir, "front")}
	l := newReal(t, f)
	client := l.dial(0, "").(*net.UnixConn)
	for _, piece := range []string{header[:10], header[10:], "pay", "load"} {
		passing(t, client, []byte(piece))
	}
	l.Start()
	defer l.Close()
	backend := accept(t, ln)
	got := make([]byte, len("payload"))
	if _, err := io.ReadFull(backend, got); err != nil || string(got) != "payload" {
		t.Errorf("%q (%v)", got, err)
	}
}

// No urgent byte is lost on unix sockets, on either side, in any place of the stream.
func TestRealUrgentDataOnUnixSockets(t *testing.T) {
	needUrgentDataOnUnixSockets(t)
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprintf("up %v", up), func(t *testing.T) {
			from, to := unixPair(t)
			if !up {
				from, to = to, from
			}
			raw, err := from.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			send := func(b string, flags int) {
				if writeErr := raw.Write(func(fd uintptr) bool {
					err = unix.Sendto(int(fd), []byte(b), flags, nil)
					return err != unix.EAGAIN
				}); writeErr != nil || err != nil {
					t.Error(writeErr, err)
				}
			}
			var want strings.Builder
			var all sync.WaitGroup
			for i := range 200 {
				before := strings.Repeat("x", i*i%3000)
				want.WriteString(before + "!")
			}
			want.WriteString("after")
			all.Go(func() {
				for i := range 200 {
					if before := strings.Repeat("x", i*i%3000); before != "" {
						send(before, 0)
					}
					send("!", unix.MSG_OOB)
				}
				send("after", 0)
				from.CloseWrite()
			})
			expectAll(t, to, []byte(want.String()))
			all.Wait()
		})
	}
}

// needUrgentDataOnUnixSockets skips the test before Linux 5.15.
func needUrgentDataOnUnixSockets(t *testing.T) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if err := unix.Sendto(pair[0], []byte("!"), unix.MSG_OOB, nil); err == unix.EOPNOTSUPP {
		t.Skip("this kernel has no urgent data on unix sockets")
	}
}

// A unix socket counts as ended when both sides have finished, whatever short reads came before.
func TestUnixSocketsEnd(t *testing.T) {
	r, peers, backends := unixRig(t, 1)
	peers[0].deliverPassing([]byte("question"))
	peers[0].sendFIN()
	backends[0].deliverPassing([]byte("ans"))
	backends[0].deliverPassing([]byte("wer"))
	backends[0].sendFIN()
	r.settle()
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	if string(peers[0].received) != "answer" || string(backends[0].received) != "question" {
		t.Errorf("%q and %q", peers[0].received, backends[0].received)
	}
	r.expectClean()
}
