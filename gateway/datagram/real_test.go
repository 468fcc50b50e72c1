package datagram

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/await"
	"unproxy/integration_test/leaks"
)

// patience bounds every wait. No test asserts how long a wait takes.
const patience = await.Patience

// live is a relay on an engine with two loops and the real kernel, on loopback.
type live struct {
	*testing.T
	*engine.Engine
	relay   *Relay
	to      netip.AddrPort // the backend
	records chan record.Connection
}

// start starts a relay. When the test ends it is closed, and must leave nothing.
func start(t *testing.T, f *forward.Forward) *live {
	t.Helper()
	leaks.Check(t)
	l := &live{T: t, to: f.Listeners[0].Backends[0].Endpoint.Addr, records: make(chan record.Connection, 4096)}
	l.relay = New(Config{Report: func(c *record.Connection) { l.records <- *c }})
	e, err := engine.New(engine.Config{Forwards: []*forward.Forward{f}, Loops: 2, Guest: l.relay.Guest})
	if err != nil {
		t.Fatal(err)
	}
	l.Engine = e
	e.Start()
	t.Cleanup(e.Close)
	return l
}

// loopback is a forward from a free port of 127.0.0.1 to a backend.
func loopback(to net.Addr) *forward.Forward {
	f := plain(to.(*net.UDPAddr).AddrPort())
	f.Listeners[0].Endpoint.Addr = netip.MustParseAddrPort("127.0.0.1:0")
	f.Trust = prefixes{netip.MustParsePrefix("127.0.0.0/8")}
	return f
}

// listen opens a socket on a free port, with a deadline for all reads.
func listen(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// dial opens a peer's socket to the relay.
func (l *live) dial() *net.UDPConn {
	l.Helper()
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(l.relay.Bound()[0].Addr))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func (l *live) next() record.Connection {
	l.Helper()
	select {
	case c := <-l.records:
		return c
	case <-time.After(patience):
		l.Fatal("no flow ended")
	}
	return record.Connection{}
}

func send(t *testing.T, c *net.UDPConn, data string) {
	t.Helper()
	if _, err := c.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, c *net.UDPConn) string {
	t.Helper()
	buffer := make([]byte, 70000)
	n, err := c.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// echo answers each datagram with its source and its payload until the socket is closed.
func echo(c *net.UDPConn) {
	buffer := make([]byte, 70000)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		c.WriteToUDPAddrPort(fmt.Appendf(nil, "%v %s", from, buffer[:n]), from)
	}
}

// Many peers with several clients each send at the same time, on both loops. Each client gets the
// replies to its own datagrams, and the backend can tell all flows apart.
func TestLiveManyFlows(t *testing.T) {
	backend := listen(t)
	go echo(backend)
	l := start(t, loopback(backend.LocalAddr()))
	const peers, clients, rounds = 20, 5, 10
	var mu sync.Mutex
	sources := map[string]string{}
	var running sync.WaitGroup
	for p := range peers {
		c := l.dial()
		running.Go(func() {
			for round := range rounds {
				for n := range clients {
					send(t, c, at(n)+fmt.Sprintf("%d/%d/%d", p, n, round))
					var source, text string
					fmt.Sscan(read(t, c), &source, &text)
					if want := fmt.Sprintf("%d/%d/%d", p, n, round); text != want {
						t.Errorf("peer %d got %q, want %q", p, text, want)
					}
					mu.Lock()
					flow := fmt.Sprint(p, "/", n)
					if before := sources[flow]; before != "" && before != source {
						t.Errorf("flow %s came from %s, and then from %s", flow, before, source)
					}
					sources[flow] = source
					mu.Unlock()
				}
			}
		})
	}
	running.Wait()
	distinct := map[string]bool{}
	for _, s := range sources {
		distinct[s] = true
	}
	c := l.relay.Counters()
	for end := time.Now().Add(patience); c.DatagramsOut < peers*clients*rounds && time.Now().Before(end); time.Sleep(time.Millisecond) {
		c = l.relay.Counters() // a loop updates the counters before it sleeps
	}
	if len(distinct) != peers*clients || c.Flows != peers*clients || c.DatagramsIn != peers*clients*rounds || c.DatagramsOut != c.DatagramsIn {
		t.Errorf("%d sources; counted %+v", len(distinct), c)
	}
	for _, w := range l.relay.workers {
		if w.relay.flows[w.host.Index()].Load() == 0 {
			t.Errorf("loop %d serves none of %d flows", w.host.Index(), c.Flows)
		}
	}
}

func TestLiveLargestAndEmptyDatagrams(t *testing.T) {
	backend := listen(t)
	l := start(t, loopback(backend.LocalAddr()))
	c := l.dial()
	buffer := make([]byte, 70000)
	for _, size := range []int{0, 1, 1472, 9000, 65507 - len(a)} {
		want := bytes.Repeat([]byte("x"), size)
		send(t, c, a+string(want))
		n, from, err := backend.ReadFromUDPAddrPort(buffer)
		if err != nil || n != size {
			t.Fatalf("the backend got %d bytes and %v, want %d", n, err, size)
		}
		back := bytes.Repeat([]byte("y"), size)
		if size == 65507-len(a) {
			back = bytes.Repeat([]byte("y"), 65507)
		}
		backend.WriteToUDPAddrPort(back, from)
		if got := read(t, c); got != string(back) {
			t.Errorf("the peer got %d bytes, want %d", len(got), len(back))
		}
	}
}

// A burst in both directions, which goes in GSO batches where the kernel cuts them
// apart, arrives whole and in order. A sender's own GSO batches do, too.
func TestLiveTrains(t *testing.T) {
	backend := listen(t)
	l := start(t, loopback(backend.LocalAddr()))
	c := l.dial()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var batch []byte
	const n = 50
	for i := range n {
		batch = fmt.Appendf(batch, "%s%04d", a, i)
	}
	raw.Control(func(fd uintptr) {
		err = unix.Sendmsg(int(fd), batch, segmentControl(len(a)+4), nil, 0)
	})
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel does not segment GSO batches")
	}
	if err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2000)
	var from netip.AddrPort
	for i := range n {
		var length int
		length, from, err = backend.ReadFromUDPAddrPort(buffer)
		if want := fmt.Sprintf("%04d", i); err != nil || string(buffer[:length]) != want {
			t.Fatalf("the backend got %q and %v, want %q", buffer[:length], err, want)
		}
	}
	for round := range 10 { // later rounds read many at once
		for i := range n {
			backend.WriteToUDPAddrPort(fmt.Appendf(nil, "%02d%04d", round, i), from)
		}
		for i := range n {
			if got, want := read(t, c), fmt.Sprintf("%02d%04d", round, i); got != want {
				t.Fatalf("the peer got %q, want %q", got, want)
			}
		}
	}
	raw, err = backend.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		to := &unix.SockaddrInet4{Port: int(from.Port()), Addr: from.Addr().Unmap().As4()}
		err = unix.Sendmsg(int(fd), []byte("aaabbbccc1"), segmentControl(3), to, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"aaa", "bbb", "ccc", "1"} {
		if got := read(t, c); got != want {
			t.Errorf("the peer got %q, want %q", got, want)
		}
	}
}

func segmentControl(size int) []byte {
	var c control
	return c.bytes()[:c.write(&address{}, size)]
}

func TestLiveFlowSurvivesBackendRestart(t *testing.T) {
	backend := listen(t)
	address := backend.LocalAddr().(*net.UDPAddr)
	l := start(t, loopback(address))
	c := l.dial()
	send(t, c, a+"one")
	buffer := make([]byte, 100)
	_, source, _ := backend.ReadFromUDPAddrPort(buffer)
	backend.Close()
	for end := time.Now().Add(patience); l.relay.Counters().Dropped[BackendRefused] < 3 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		send(t, c, a+"two")
	}
	if n := l.relay.Counters().Dropped[BackendRefused]; n < 3 {
		t.Fatalf("%d datagrams were refused", n)
	}
	backend, err := net.ListenUDP("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	backend.SetDeadline(time.Now().Add(patience))
	send(t, c, a+"three")
	for {
		n, from, err := backend.ReadFromUDPAddrPort(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if from != source {
			t.Fatalf("the flow came from %v, and then from %v", source, from)
		}
		if string(buffer[:n]) == "three" {
			backend.WriteToUDPAddrPort([]byte("four"), from)
			break
		}
	}
	if got := read(t, c); got != "four" {
		t.Errorf("the peer got %q", got)
	}
}

// A wildcard listener replies from the address that the peer sent to.
func TestLiveRepliesFromTheDestination(t *testing.T) {
	backend := listen(t)
	go echo(backend)
	f := loopback(backend.LocalAddr())
	f.Listeners[0].Endpoint.Addr, f.Listeners[0].DualStack = netip.MustParseAddrPort("[::]:0"), true
	f.Trust = prefixes{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	l := start(t, f)
	port := l.relay.Bound()[0].Addr.Port()
	for _, host := range []string{"127.0.0.1", "127.0.0.77", "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(host), port)
		if to.Addr().Is6() && l.relay.Bound()[0].Addr.Addr().Is4() {
			continue // there is no IPv6 here
		}
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // accepts replies from that address only
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		send(t, c, a+"hello")
		if got := read(t, c); !bytes.HasSuffix([]byte(got), []byte(" hello")) {
			t.Errorf("from %s came %q", host, got)
		}
	}
}

// A second gateway on the same address is an error.
func TestLiveAddressInUse(t *testing.T) {
	backend := listen(t)
	l := start(t, loopback(backend.LocalAddr()))
	f := loopback(backend.LocalAddr())
	f.Listeners[0].Endpoint = l.relay.Bound()[0]
	_, err := engine.New(engine.Config{Forwards: []*forward.Forward{f}, Loops: 2, Guest: New(Config{}).Guest})
	var e *engine.ListenError
	if !errors.As(err, &e) || !errors.Is(err, unix.EADDRINUSE) || e.Hint() == "" {
		t.Errorf("a second gateway on the same address: %v", err)
	}
}

func TestLiveDrainEndsWhenFlowsAreIdle(t *testing.T) {
	backend := listen(t)
	go echo(backend)
	f := loopback(backend.LocalAddr())
	f.FlowTimeout = 2 * time.Second // time enough for the reply
	l := start(t, f)
	c := l.dial()
	send(t, c, a+"hello")
	read(t, c)
	l.StopAccepting()
	select {
	case <-l.Idle():
	case <-time.After(patience):
		t.Error("the engine does not become idle")
	}
	if c := l.next(); c.Outcome != record.OK || c.By != record.Timeout {
		t.Errorf("ended %v by %v", c.Outcome, c.By)
	}
}

func TestLiveCloseCutsFlows(t *testing.T) {
	backend := listen(t)
	go echo(backend)
	l := start(t, loopback(backend.LocalAddr()))
	c := l.dial()
	send(t, c, a+"hello")
	read(t, c)
	l.Cut()
	if c := l.next(); c.Outcome != record.Drained || c.By != record.Gateway {
		t.Errorf("ended %v by %v", c.Outcome, c.By)
	}
}
