package engine

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
)

// inheriting is a forward whose listener has an open socket. The descriptor is a duplicate: ln
// keeps the original, as systemd does.
func inheriting(t *testing.T, ln net.Listener, held bool, backend forward.Endpoint) *forward.Forward {
	t.Helper()
	f := loopback(backend)
	s := &forward.Socket{Held: held}
	switch a := ln.Addr().(type) {
	case *net.TCPAddr:
		s.Bound.Addr = a.AddrPort()
	case *net.UnixAddr:
		s.Bound.Path = a.Name
	}
	raw, err := ln.(interface {
		File() (*os.File, error)
	}).File()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if s.FD, err = unix.FcntlInt(raw.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(s.FD, true); err != nil { // File and Fd made it blocking
		t.Fatal(err)
	}
	f.Listeners[0].Endpoint, f.Listeners[0].Socket = s.Bound, s
	return f
}

// An inherited socket serves like one that the engine opened. It has the forward's options rather
// than those that it came with.
func TestRealInheritedSocket(t *testing.T) {
	back, to := server(t)
	front := listen(t, "tcp", "127.0.0.1:0")
	f := inheriting(t, front, false, to)
	f.Keepalive, f.UserTimeout = 0, 0
	fd := f.Listeners[0].Socket.FD
	for _, o := range [][3]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1234}} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			t.Fatal(err)
		}
	}
	l := startReal(t, f)
	if l.Bound()[0] != f.Listeners[0].Socket.Bound {
		t.Errorf("bound to %v", l.Bound()[0])
	}
	l.exchange(l.dial(0, header), back)
	for _, o := range [][3]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}} {
		if v, err := unix.GetsockoptInt(fd, o[0], o[1]); err != nil || v != o[2] {
			t.Errorf("option %d of level %d is %d (%v), want %d", o[1], o[0], v, err, o[2])
		}
	}
}

// A listener that expects a socket from systemd does not open one itself.
func TestActivationWithoutSocket(t *testing.T) {
	f := plainForward(serverA)
	f.Listeners[0].Activation = "web"
	k := newScript(t, 0)
	if _, err := New(Config{Kernel: k, Forwards: []*forward.Forward{f}}); err == nil || k.used != 0 {
		t.Errorf("%v, %d descriptors are open", err, k.used)
	}
}

// Closing a socket that another process has open does not remove it from epoll. The loop must not
// get events for it afterwards, its queue must be complete, and the other process must be able to
// serve it.
func TestRealHeldSocketKeepsQueue(t *testing.T) {
	for name, stop := range map[string]func(*Engine){"systemd": (*Engine).StopAccepting,
		"inherited": (*Engine).Release} {
		t.Run(name, func(t *testing.T) {
			_, to := server(t)
			front := listen(t, "tcp", "127.0.0.1:0")
			l := startReal(t, inheriting(t, front, name == "systemd", to))
			stop(l.Engine)
			<-l.Idle()
			conn := l.dial(0, header)
			events := l.countListenerEvents(t, 50)
			if c := accept(t, front); c.RemoteAddr().String() != conn.LocalAddr().String() {
				t.Errorf("the next in the queue is %v", c.RemoteAddr())
			}
			if events != 0 {
				t.Errorf("%d events for a closed listener", events)
			}
		})
	}
}

// countListenerEvents makes each loop poll n times while a connection waits in the queue, and
// counts events of listeners.
func (l *realEngine) countListenerEvents(t *testing.T, n int) (events int) {
	t.Helper()
	batch := make([]unix.EpollEvent, 8)
	for range n {
		<-l.onLoops(func(loop *loop) {
			got := loop.kernel.Wait(loop.poller, batch, 0)
			for i := range got {
				if kind, _ := tag(kernel.Tag(&batch[i])).split(); kind == tagListener {
					events++
				}
			}
		})
	}
	return events
}

// The duplicates refer to the same open sockets, so another process can continue to serve them. The
// file of a unix socket stays with them.
func TestRealSockets(t *testing.T) {
	path := socketPath(t)
	_, to := server(t)
	tcp, local, held := loopback(to), loopback(to), inheriting(t, listen(t, "tcp", "127.0.0.1:0"), true, to)
	local.Listeners[0].Endpoint, local.SocketMode = forward.Endpoint{Path: path}, 0o600
	held.Listeners[0].Activation = "web"
	l := startReal(t, tcp, local, held)
	sockets, err := l.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i, s := range sockets {
		names = append(names, s.Name)
		if s.Bound != l.Bound()[i] || s.Held != (i == 2) {
			t.Errorf("%+v, want one bound to %v", s, l.Bound()[i])
		}
	}
	if want := []string{"127.0.0.1:0", "unix:" + path, "systemd:web"}; !slices.Equal(names, want) {
		t.Fatalf("the sockets are named %q, want %q", names, want)
	}
	l.Release()
	<-l.Idle()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file of a socket that another process took over: %v", err)
	}
	t.Run("inherited", func(t *testing.T) {
		back, to := server(t)
		var forwards []*forward.Forward
		for i := range sockets {
			f := loopback(to)
			f.Listeners[0].Endpoint, f.Listeners[0].Socket, f.SocketMode = sockets[i].Bound, &sockets[i], 0o640
			forwards = append(forwards, f)
		}
		next := startReal(t, forwards...)
		for i := range sockets {
			next.exchange(next.dial(i, header), back)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the last owner left the file: %v", err)
	}
}

// A process whose start fails after it inherited a unix socket must not remove the file: the
// previous owner continues to serve it.
func TestRealFailedStartKeepsSocketFile(t *testing.T) {
	path := socketPath(t)
	_, to := server(t)
	ours := inheriting(t, listen(t, "unix", path), false, to)
	ours.SocketMode = 0o600
	inUse := loopback(to)
	inUse.Listeners[0].Endpoint = to
	if _, err := New(Config{Forwards: []*forward.Forward{ours, inUse}}); err == nil {
		t.Fatal("New opened a port in use")
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

// Listeners with different sockets have different names.
func TestSocketName(t *testing.T) {
	at := netip.MustParseAddrPort("[::]:80")
	names := map[string]bool{}
	for _, l := range []forward.Listener{
		{Endpoint: forward.Endpoint{Addr: at}},
		{Endpoint: forward.Endpoint{Addr: at}, DualStack: true},
		{Endpoint: forward.Endpoint{Addr: netip.MustParseAddrPort("0.0.0.0:80")}},
		{Endpoint: forward.Endpoint{Path: "/run/s"}},
		{Endpoint: forward.Endpoint{Addr: at}, Activation: "web"},
	} {
		names[l.SocketName()] = true
	}
	if len(names) != 5 {
		t.Errorf("the names are %v", names)
	}
}

// If one duplicate fails, the others are closed.
func TestSocketsOutOfDescriptors(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{withSecondListener(plainForward(serverA))}})
	before := r.used
	r.limit = before + 1
	c := r.engine.copySockets()
	r.settle()
	<-c.made
	if sockets, err := c.result(); sockets != nil || !errors.Is(err, unix.EMFILE) || r.used != before {
		t.Errorf("%v, %v, %d descriptors are open, %d before", sockets, err, r.used, before)
	}
}

// Header deadlines apply while the gateway drains; established sessions continue.
func TestDrainKeepsDeadlines(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.open(header)
	r.open(header[:10])
	r.stopAccepting()
	r.advance(6 * time.Second)
	r.expectEnd(1, record.HeaderTimeout, record.Header, record.Timeout)
	if r.isIdle() || r.engine.Counters().Active != 1 {
		t.Errorf("%d active, idle %v", r.engine.Counters().Active, r.isIdle())
	}
	r.resetOneBackend()
	if !r.isIdle() {
		t.Error("not idle after the last connection")
	}
	r.expectClean()
}

// An inherited socket is made transparent, with the option of its family, like one that the engine
// opens. If that is not permitted, New fails.
func TestTProxyInherited(t *testing.T) {
	for at, want := range map[string][3]int{
		"192.0.2.80:80": {unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1},
		"[::]:80":       {unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1},
	} {
		k := newScript(t, 0)
		f := plainForward(serverA)
		f.TProxy = true
		socket := k.create(listening)
		f.Listeners[0].Socket = &forward.Socket{FD: socket.fd,
			Bound: forward.Endpoint{Addr: netip.MustParseAddrPort(at)}}
		newRig(t, k, Config{Forwards: []*forward.Forward{f}})
		if !slices.Contains(socket.options, want) {
			t.Errorf("%s: the options are %v, want %v among them", at, socket.options, want)
		}
		k.optionError = func(_, name int) unix.Errno {
			if name == want[1] {
				return unix.EPERM
			}
			return 0
		}
		f.Listeners[0].Socket.FD = k.create(listening).fd
		if _, err := New(Config{Kernel: k, Forwards: []*forward.Forward{f}}); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: without the capability: %v", at, err)
		}
	}
}
