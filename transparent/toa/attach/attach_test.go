package attach_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/cgroup"
	"unproxy/integration_test/netns"
	"unproxy/transparent/toa"
	"unproxy/transparent/toa/attach"
)

// The gateway's and the server's address, both on lo: unlike 127.0.0.1 they have no part
// in other connections of the host.
const (
	gatewayAddress = "10.55.9.1"
	serverAddress  = "10.55.9.2"
)

var client = netip.MustParseAddrPort("203.0.113.9:4711")

// host is the test's own host: addresses on lo, a cgroup for each role.
type host struct{ gateway, server *cgroup.Group }

func newHost(t *testing.T) host {
	netns.IP(t, "address add "+gatewayAddress+"/32 dev lo")
	netns.IP(t, "address add "+serverAddress+"/32 dev lo")
	tree := cgroup.New(t)
	return host{tree.Child(t, "gateway"), tree.Child(t, "server")}
}

// config covers one gateway and one port.
func (h host) config(port uint16) attach.ServerConfig {
	return attach.ServerConfig{
		Cgroup: h.server.Path, From: []netip.Prefix{netip.MustParsePrefix(gatewayAddress + "/32")}, Ports: []uint16{port},
	}
}

// server is a server that sends the address it sees on the channel, and keeps connections.
type server struct {
	net.Listener
	port uint16
	seen chan netip.AddrPort
}

// listen starts a server. Port 0 takes a free one.
func (h host) listen(t *testing.T, port uint16) server {
	t.Helper()
	var l net.Listener
	h.server.Do(t, func() {
		var err error
		if l, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", serverAddress, port)); err != nil {
			t.Error(err)
		}
	})
	if l == nil {
		t.FailNow()
	}
	t.Cleanup(func() { l.Close() })
	s := server{l, l.Addr().(*net.TCPAddr).AddrPort().Port(), make(chan netip.AddrPort, 100)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.seen <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
			defer c.Close()
		}
	}()
	return s
}

// restart is what an operator does where the kernel cannot mark listeners. Only kernels
// before 6.12 may say so.
func (h host) restart(t *testing.T, s server, l attach.Listeners) server {
	t.Helper()
	if cgroup.MarksListeners(t) || l.Err == nil {
		t.Fatalf("Linux %s has not marked the listener: %+v", attach.Kernel(), l)
	}
	t.Logf("restart the server: %v", l.Err)
	s.Close()
	return h.listen(t, s.port)
}

// dial connects as the gateway, with a client unless it is zero.
func (h host) dial(t *testing.T, port uint16, client netip.AddrPort) (state toa.State, err error) {
	t.Helper()
	var c net.Conn
	h.gateway.Do(t, func() {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(gatewayAddress)}, Control: func(_, _ string, raw syscall.RawConn) error {
			if !client.IsValid() {
				return nil
			}
			var errno syscall.Errno
			if err := raw.Control(func(fd uintptr) {
				errno = toa.Set(toa.System{}, int(fd), toa.Record{Client: client})
			}); err != nil || errno == 0 {
				return err
			}
			return errno
		}}
		c, err = d.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(serverAddress), port).String())
	})
	if err != nil {
		return state, err
	}
	t.Cleanup(func() { c.Close() })
	raw, _ := c.(*net.TCPConn).SyscallConn()
	raw.Control(func(fd uintptr) {
		var errno syscall.Errno
		if state, errno = toa.Progress(toa.System{}, int(fd)); errno != 0 {
			err = errno
		}
	})
	c.Write([]byte("hi"))
	return state, err
}

// attachBoth attaches the programs of both roles.
func (h host) attachBoth(t *testing.T, c attach.ServerConfig) attach.Result {
	t.Helper()
	r, err := attach.AttachServer(c)
	if err != nil {
		t.Fatalf("attach the server's programs: %v", err)
	}
	if _, err := attach.AttachGateway(h.gateway.Path); err != nil {
		t.Fatalf("attach the gateway's programs: %v", err)
	}
	return r
}

// The server sees the client, and the gateway's address before and after. It has been
// listening since before.
func TestServerSeesClient(t *testing.T) {
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newHost(t)
		s := h.listen(t, 0)
		if _, err := h.dial(t, s.port, client); !errors.Is(err, unix.ENOPROTOOPT) {
			t.Errorf("without the gateway's programs: %v, want ENOPROTOOPT", err)
		}
		r := h.attachBoth(t, h.config(s.port))
		if r.Listeners.Covered != 1 || r.Listeners.Err != nil {
			s = h.restart(t, s, r.Listeners)
		}
		if state, err := h.dial(t, s.port, client); err != nil || !state.Promised {
			t.Errorf("dial: %+v, %v; want a promise", state, err)
		}
		if got := await.Receive(t, "a connection", s.seen); got != client {
			t.Errorf("the server sees %v, want %v", got, client)
		}
		for _, role := range []attach.Role{attach.Server, attach.Gateway} {
			path := map[attach.Role]string{attach.Server: h.server.Path, attach.Gateway: h.gateway.Path}[role]
			for _, want := range []bool{true, false} {
				if found, err := attach.Detach(path, role); err != nil || found != want {
					t.Errorf("detach from the %v: %v, %v; want %v", role, found, err, want)
				}
			}
		}
		if all, err := attach.List(h.server.Path); err != nil || len(all) != 0 {
			t.Errorf("left behind: %+v, %v", all, err)
		}
		if _, err := h.dial(t, s.port, netip.AddrPort{}); err == nil {
			t.Error("getsockopt(2) answered without programs")
		}
		if got := await.Receive(t, "a connection", s.seen); got.Addr().String() != gatewayAddress {
			t.Errorf("detached: the server sees %v, want the gateway", got)
		}
	})
}

// The root of the host's hierarchy is refused for the gateway's programs.
func TestGatewayRefusesRoot(t *testing.T) {
	root, err := attach.Root()
	if err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat(root + "/cgroup.events"); err == nil {
		t.Skip("the root here is that of a cgroup namespace")
	}
	var e *attach.Error
	if _, err := attach.AttachGateway(root); !errors.As(err, &e) || e.Hint() == "" {
		t.Errorf("attach to %s: %v, want an error with a hint", root, err)
	}
}

// Without privileges every function says so, and names no other cause. Root in a user
// namespace has all capabilities, but none that count here.
func TestWithoutPrivileges(t *testing.T) {
	const marker = "ATTACH_TEST_UNPRIVILEGED"
	if os.Getenv(marker) == "" {
		again := exec.Command("/proc/self/exe", "-test.run=^TestWithoutPrivileges$", "-test.v")
		again.Env = append(os.Environ(), marker+"=1")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}}
		output, err := again.CombinedOutput()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
			t.Skipf("no user namespace: %v", err)
		}
		if err != nil {
			t.Errorf("in a user namespace: %v\n%s", err, output)
		}
		return
	}
	path, err := attach.Root()
	if err != nil {
		t.Skip(err)
	}
	_, serverErr := attach.AttachServer(attach.ServerConfig{
		Cgroup: path, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, Ports: []uint16{1},
	})
	_, detachErr := attach.Detach(path, attach.Server)
	_, listErr := attach.List(path)
	_, tryErr := attach.Try(path, attach.Server)
	for name, err := range map[string]error{"attach": serverErr, "detach": detachErr, "list": listErr, "try": tryErr} {
		e, ok := errors.AsType[*attach.Error](err)
		if !ok || !errors.Is(err, unix.EPERM) || !strings.Contains(e.Hint(), "root of the host") {
			t.Errorf("%s: %v, want EPERM with a hint", name, err)
		}
	}
}
