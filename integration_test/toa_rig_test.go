package integration_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/cgroup"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
	"unproxy/transparent/toa"
	"unproxy/transparent/toa/attach"
)

// The test is the gateway, another namespace the backend's host.
const (
	toaGateway4, toaServer4, toaStranger4 = "10.55.0.1", "10.55.0.2", "10.55.0.66"
	toaGateway6, toaServer6, toaStranger6 = "fd00:55::1", "fd00:55::2", "fd00:55::66"
	toaClient4, toaClient6                = "203.0.113.9:4711", "[2001:db8::9]:4711"
	toaPort, toaUnlisted                  = 7000, 7001
)

// errUnpromised is what toaRig.dial returns if the server has not promised.
var errUnpromised = errors.New("not promised")

// toaRig is a gateway and a backend's host, each with a cgroup.
//
//	test 10.55.0.1, fd00:55::1 ──── host 10.55.0.2, fd00:55::2
//	     .66 is a stranger
type toaRig struct {
	host            *lab.Host
	gateway, server *cgroup.Group
}

// newTOARig makes the rig, without programs. Call it in the body of netns.RunAsRoot.
func newTOARig(t *testing.T) *toaRig {
	t.Helper()
	tree := cgroup.New(t)
	r := &toaRig{gateway: tree.Child(t, "gateway"), server: tree.Child(t, "server")}
	r.host = lab.NewHost(t, "be", toaServer4+"/24", toaServer6+"/64")
	for _, a := range []string{toaGateway4 + "/24", toaStranger4 + "/24"} {
		netns.IP(t, "address add "+a+" dev be")
	}
	for _, a := range []string{toaGateway6 + "/64", toaStranger6 + "/64"} {
		netns.IP(t, "-6 address add "+a+" dev be nodad")
	}
	return r
}

// attach attaches the programs of both roles; the server's takes both gateways on one
// port, unless flags say otherwise. It returns what the command says about the server's.
func (r *toaRig) attach(t *testing.T, flags ...string) string {
	t.Helper()
	if len(flags) == 0 {
		flags = []string{"--from", toaGateway4, "--from", toaGateway6, "--port", fmt.Sprint(toaPort)}
	}
	output := r.attachServer(t, flags...)
	unproxy(t, "toa", "attach", "--gateway", "--cgroup", r.gateway.Path)
	return output
}

func (r *toaRig) attachServer(t *testing.T, flags ...string) string {
	t.Helper()
	return unproxy(t, append([]string{"toa", "attach", "--cgroup", r.server.Path}, flags...)...)
}

// toaConn is a connection as the server sees it.
type toaConn struct {
	peer netip.AddrPort
	line string
	conn *net.TCPConn
}

// toaServer accepts connections, reads a line of each, and sends it back.
type toaServer struct {
	net.Listener
	accepted atomic.Int64
	seen     chan toaConn
}

// listen starts a server on the backend's host, in the server's cgroup. control sets
// options of the socket before it listens, if it is not nil.
func (r *toaRig) listen(t *testing.T, network, address string, control func(fd int) error) *toaServer {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	if control != nil {
		lc.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) { err = control(int(fd)) }), err)
		}
	}
	var l net.Listener
	r.server.Do(t, func() {
		r.host.Do(t, func() {
			var err error
			if l, err = lc.Listen(t.Context(), network, address); err != nil {
				t.Errorf("listen on %s: %v", address, err)
			}
		})
	})
	if l == nil {
		t.FailNow()
	}
	t.Cleanup(func() { l.Close() })
	s := &toaServer{Listener: l, seen: make(chan toaConn, 10000)}
	go s.accept(t)
	return s
}

// restart starts a server that has listened since before attach again, if attach has said
// that this kernel cannot mark it. Until then nothing is promised.
func (r *toaRig) restart(t *testing.T, s *toaServer, attached string) *toaServer {
	t.Helper()
	if cgroup.MarksListeners(t) {
		return s
	}
	if !strings.Contains(attached, "restart the servers") {
		t.Errorf("Linux %s cannot mark listeners, but attach does not say so: %s", attach.Kernel(), attached)
	}
	c := call(toaClient4)
	c.to = fmt.Sprintf("%s:%d", toaServer4, s.Addr().(*net.TCPAddr).Port)
	if _, _, err := r.dial(t, c); err != errUnpromised {
		t.Errorf("before the restart: %v", err)
	}
	s.Close()
	return r.listen(t, "tcp", s.Addr().String(), nil)
}

func (s *toaServer) accept(t *testing.T) {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		s.accepted.Add(1)
		t.Cleanup(func() { c.Close() })
		go func() {
			line, err := bufio.NewReader(c).ReadString('\n')
			if err != nil {
				return
			}
			s.seen <- toaConn{lab.Peer(c), line, c.(*net.TCPConn)}
			fmt.Fprint(c, line)
		}()
	}
}

// next returns the next connection that the server has read a line of.
func (s *toaServer) next(t *testing.T) toaConn {
	t.Helper()
	return await.Receive(t, "a connection at the server", s.seen)
}

// want checks the peer of the next connection.
func (s *toaServer) want(t *testing.T, peer string) toaConn {
	t.Helper()
	c := s.next(t)
	if got := c.peer.String(); got != peer {
		t.Errorf("the server sees %s, want %s", got, peer)
	}
	return c
}

// toaCall is a connection of the gateway.
type toaCall struct {
	from, to string
	client   string // "": none is set
	format   toa.Format
	fastOpen bool // send the line in the SYN
	line     string
}

// dial makes the connection and sends a line. It returns errUnpromised, after a reset and
// without having sent anything, if the format is negotiated and there is no promise.
func (r *toaRig) dial(t *testing.T, c toaCall) (conn *os.File, state toa.State, err error) {
	t.Helper()
	to, from := netip.MustParseAddrPort(c.to), netip.MustParseAddr(c.from)
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	var fd int
	r.gateway.Do(t, func() { fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	conn = os.NewFile(uintptr(fd), "connection")
	t.Cleanup(func() { conn.Close() })
	if c.client != "" {
		record := toa.Record{Client: netip.MustParseAddrPort(c.client), Format: c.format}
		if errno := toa.Set(toa.System{}, fd, record); errno != 0 {
			return conn, state, errno
		}
	}
	if err := unix.Bind(fd, sockaddrOf(netip.AddrPortFrom(from, 0))); err != nil {
		t.Fatal(err)
	}
	if c.line == "" {
		c.line = "hi\n"
	}
	if c.fastOpen {
		return conn, state, unix.Sendto(fd, []byte(c.line), unix.MSG_FASTOPEN, sockaddrOf(to))
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Connect(fd, sockaddrOf(to))
	}
	if err != nil && err != unix.EISCONN {
		return conn, state, err
	}
	return conn, state, r.finish(conn, fd, c, &state)
}

// finish looks for the promise and sends the line.
func (r *toaRig) finish(conn *os.File, fd int, c toaCall, state *toa.State) error {
	if c.client != "" {
		s, errno := toa.Progress(toa.System{}, fd)
		if errno != 0 {
			return errno
		}
		*state = s
		if c.format == toa.Negotiated && !s.Promised {
			if err := abort(conn); err != nil {
				return err
			}
			return errUnpromised
		}
	}
	_, err := unix.Write(fd, []byte(c.line))
	return err
}

// abort closes a connection with an RST.
func abort(conn *os.File) error {
	err := unix.SetsockoptLinger(int(conn.Fd()), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return errors.Join(err, conn.Close())
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// call is a connection over IPv4 with a client.
func call(client string) toaCall {
	return toaCall{from: toaGateway4, to: fmt.Sprintf("%s:%d", toaServer4, toaPort), client: client}
}

// must dials and fails the test if that does.
func (r *toaRig) must(t *testing.T, c toaCall) (*os.File, toa.State) {
	t.Helper()
	conn, state, err := r.dial(t, c)
	if err != nil {
		t.Fatalf("dial %+v: %v", c, err)
	}
	return conn, state
}

// refuses makes a connection that the server's programs must not let through: the counter
// grows, and the server accepts the next connection but not this one. In the end the
// connection is reset: what it sends again would go on counting.
func (r *toaRig) refuses(t *testing.T, s *toaServer, c toaCall, counter string) {
	t.Helper()
	counted, accepted := r.counters(t)[counter], s.accepted.Load()
	refused, _ := r.must(t, c)
	await.Until(t, "the counter "+counter+" grows", func() bool { return r.counters(t)[counter] > counted })
	good := c
	good.client, good.format = toaClient4, toa.Negotiated
	r.must(t, good)
	s.want(t, toaClient4)
	if got := s.accepted.Load(); got != accepted+1 {
		t.Errorf("%+v: the server has accepted %d connections, want that of the good client alone", c, got-accepted)
	}
	if err := abort(refused); err != nil {
		t.Errorf("reset %+v: %v", c, err)
	}
}

// toaStatus is the part of "unproxy toa status --json" that the tests use.
type toaStatus struct {
	Attachments []struct {
		Role, Cgroup string
		Missing      []string
		Others       []struct{ Name, Hook string }
		Server       struct {
			From      []string
			Ports     []int
			Legacy    bool
			Counters  map[string]uint64
			Covered   int   `json:"listeners_covered"`
			Uncovered []int `json:"listeners_uncovered"`
		}
	}
}

// toaStatusOf returns what is attached to a cgroup and below it.
func toaStatusOf(t *testing.T, path string) (s toaStatus) {
	t.Helper()
	output := unproxy(t, "toa", "status", "--json", "--cgroup", path)
	if err := json.Unmarshal([]byte(output), &s); err != nil {
		t.Fatalf("toa status: %v\n%s", err, output)
	}
	return s
}

// counters returns the counters of the server's programs.
func (r *toaRig) counters(t *testing.T) map[string]uint64 {
	t.Helper()
	attached, err := attach.List(r.server.Path)
	if err != nil || len(attached) != 1 {
		t.Fatalf("%+v, %v; want one attachment", attached, err)
	}
	all := map[string]uint64{}
	for _, c := range attached[0].Counters {
		all[c.Name] = c.Value
	}
	return all
}

// peerOf asks the kernel for the peer of an accepted connection again.
func peerOf(t *testing.T, c *net.TCPConn) string {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var peer unix.Sockaddr
	if err := errors.Join(raw.Control(func(fd uintptr) { peer, err = unix.Getpeername(int(fd)) }), err); err != nil {
		t.Fatal(err)
	}
	switch p := peer.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(p.Addr), uint16(p.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(p.Addr).Unmap(), uint16(p.Port)).String()
	}
	t.Fatalf("peer of an unexpected type %T", peer)
	return ""
}

// echoed waits until the server has sent the line back.
func echoed(t *testing.T, conn *os.File, line string) {
	t.Helper()
	tv := unix.NsecToTimeval(int64(time.Until(await.Deadline(t))))
	unix.SetsockoptTimeval(int(conn.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || strings.TrimSpace(got) != strings.TrimSpace(line) {
		t.Errorf("echoed %q, %v; want %q", got, err, line)
	}
}

// waitCounter waits until a counter of the server's programs has reached a value.
func (r *toaRig) waitCounter(t *testing.T, name string, least uint64) {
	t.Helper()
	await.Until(t, fmt.Sprintf("the counter %s reaches %d", name, least), func() bool { return r.counters(t)[name] >= least })
}
