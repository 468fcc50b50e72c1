package integration_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/cgroup"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
	"unproxy/transparent/toa/attach"
)

// The addresses of the gateway's host, .1 and .77, and of two backends' hosts.
const (
	carryAddress  = "10.66.0.77" // --toa-source, from which a client is required
	carryAddress6 = "fd66::77"
	hostAddress   = "10.66.0.1"
)

// toaHosts are a gateway's host, which is the test's own, and two backends' hosts, each with its own cgroup.
//
//	test ──header──▶ unproxy 10.66.0.77, fd66::77 ══ 10.66.0.2, fd66::2 the first backend's host
//	                                              ══ 10.66.0.3, fd66::3 the second's
type toaHosts struct {
	gateway *cgroup.Group
	servers [2]*cgroup.Group
	hosts   [2]*lab.Host
}

// newTOAHosts makes the hosts, without programs. Call it in the body of netns.RunAsRoot.
func newTOAHosts(t *testing.T) *toaHosts {
	t.Helper()
	lab.Require(t, "ip", "nft")
	tree := cgroup.New(t)
	h := &toaHosts{gateway: tree.Child(t, "gateway")}
	netns.IP(t, "link add lan type bridge")
	netns.IP(t, "link set lan up")
	for _, a := range []string{hostAddress + "/24", carryAddress + "/24"} {
		netns.IP(t, "address add "+a+" dev lan")
	}
	for _, a := range []string{"fd66::1/64", carryAddress6 + "/64"} {
		netns.IP(t, "-6 address add "+a+" dev lan nodad")
	}
	for i := range h.hosts {
		h.servers[i] = tree.Child(t, fmt.Sprintf("server%d", i))
		h.hosts[i] = lab.NewHost(t, fmt.Sprintf("be%d", i), fmt.Sprintf("10.66.0.%d/24", i+2), fmt.Sprintf("fd66::%d/64", i+2))
		netns.IP(t, fmt.Sprintf("link set be%d master lan", i))
	}
	return h
}

// attachServer attaches the programs of the i-th backend's host for port 80 and these gateways, by default
// those of the test.
func (h *toaHosts) attachServer(t *testing.T, i int, from ...string) {
	t.Helper()
	if len(from) == 0 {
		from = []string{carryAddress + "/32", carryAddress6 + "/128"}
	}
	c := attach.ServerConfig{Cgroup: h.servers[i].Path, Ports: []uint16{80}}
	for _, p := range from {
		c.From = append(c.From, netip.MustParsePrefix(p))
	}
	if _, err := attach.AttachServer(c); err != nil {
		t.Fatalf("attach the server's programs: %v", err)
	}
}

func (h *toaHosts) attachGateway(t *testing.T) {
	t.Helper()
	if _, err := attach.AttachGateway(h.gateway.Path); err != nil {
		t.Fatalf("attach the gateway's programs: %v", err)
	}
}

// listen starts a server on port 80 of the i-th backend's host, which greets each client with the address
// that it sees and echoes.
func (h *toaHosts) listen(t *testing.T, i int, network string) (accepted func() int) {
	t.Helper()
	var l net.Listener
	h.servers[i].Do(t, func() {
		h.hosts[i].Do(t, func() {
			var err error
			if l, err = net.Listen(network, ":80"); err != nil {
				t.Error(err)
			}
		})
	})
	if l == nil {
		t.FailNow()
	}
	t.Cleanup(func() { l.Close() })
	conns := make(chan net.Conn, 1000)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "hello %s\n", lab.Peer(c))
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	return func() int { return len(conns) }
}

// start starts a gateway in the gateway's cgroup, from 127.0.0.1:2000 to the backends, with more flags. It is
// root without any capability.
func (h *toaHosts) start(t *testing.T, backends string, flags ...string) *lab.Gateway {
	t.Helper()
	all := append([]string{"--forward", "127.0.0.1:2000=" + backends, "--trust", "127.0.0.1", "--transparent", "toa",
		"--toa-source", carryAddress, "--toa-source", carryAddress6, "--self-test-interval", "0"}, flags...)
	return lab.StartGatewayAs(t, lab.Command{Name: programIn(t, h.gateway, lab.Binary(t)), Limit: true}, all...)
}

// programIn returns the path of a script that runs a command in a cgroup, with the script's arguments.
func programIn(t *testing.T, g *cgroup.Group, command ...string) string {
	t.Helper()
	return lab.Script(t, "gateway", fmt.Sprintf("#!/bin/sh -e\necho $$ >%s/cgroup.procs\nexec %s \"$@\"\n", g.Path,
		strings.Join(command, " ")))
}

// askTOA sends a client's header and a line through a gateway, and returns the greeting and the echo.
func askTOA(t *testing.T, address string, header []byte) (greeting, echo string, err error) {
	t.Helper()
	c := lab.Send(t, address, append(slices.Clone(header), "ping\n"...))
	defer c.Close()
	c.CloseWrite()
	reply, err := io.ReadAll(c)
	greeting, echo, _ = strings.Cut(string(reply), "\n")
	return greeting, echo, err
}

// wantTOA checks that a client is served and seen, and returns the connection's line.
func wantTOA(t *testing.T, g *lab.Gateway, client netip.AddrPort) lab.Line {
	t.Helper()
	greeting, echo, err := askTOA(t, g.Address(t, 0), headerOf(client))
	if greeting != "hello "+client.String() || echo != "ping\n" || err != nil {
		t.Errorf("the client got %q, %q, %v; want the server to see %s", greeting, echo, err, client)
	}
	line := g.NextConnection(t)
	line.Expect(t, "outcome", "ok", "client", client.String(), "transparent", "true", "toa", "true")
	return line
}

// refusedTOA checks that a client is refused with an outcome, and that no server got a byte.
func refusedTOA(t *testing.T, g *lab.Gateway, client netip.AddrPort, outcome string) lab.Line {
	t.Helper()
	greeting, _, _ := askTOA(t, g.Address(t, 0), headerOf(client))
	if greeting != "" {
		t.Errorf("a client that must be refused got %q", greeting)
	}
	line := g.NextConnection(t)
	line.Expect(t, "outcome", outcome)
	return line
}

// The server sees the client of a gateway without capabilities and routes, of both families. Without programs
// on either side, on the port or for the gateway, nothing reaches the server.
func TestTOAGateway(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newTOAHosts(t)
		h.attachServer(t, 0, "10.66.0.99/32")
		accepted := h.listen(t, 0, "tcp")
		g := h.start(t, "10.66.0.2:80,[fd66::2]:80", "--backend-retry", "0")
		refusedTOA(t, g, client4, "toa_unattached")
		h.attachGateway(t)
		refusedTOA(t, g, client4, "toa_unpromised") // another gateway is listed
		h.attachServer(t, 0)
		if n := accepted(); n != 0 {
			t.Errorf("the server has accepted %d connections before there was a promise", n)
		}
		wantTOA(t, g, client4)
		wantTOA(t, g, client6)
		// A connection without a client comes from another address, and is seen as the gateway.
		greeting, echo, err := askTOA(t, g.Address(t, 0), lab.Local())
		if !strings.HasPrefix(greeting, "hello "+hostAddress+":") || echo != "ping\n" {
			t.Errorf("LOCAL: %q, %q, %v", greeting, echo, err)
		}
		g.NextConnection(t).Expect(t, "outcome", "ok", "transparent", "false", "toa", "")
		refusedTOA(t, g, netip.MustParseAddrPort("127.0.0.1:4711"), "source_denied")
		refusedTOA(t, g, netip.MustParseAddrPort("10.66.0.1:4711"), "source_denied")
		if _, err := attach.Detach(h.gateway.Path, attach.Gateway); err != nil {
			t.Fatal(err)
		}
		refusedTOA(t, g, client4, "toa_unattached")
	})
}

// The first backend whose host promises serves; the others see nothing.
func TestTOAGatewayFailover(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newTOAHosts(t)
		h.attachGateway(t)
		h.attachServer(t, 1)
		first, second := h.listen(t, 0, "tcp"), h.listen(t, 1, "tcp")
		g := h.start(t, "10.66.0.2:80,10.66.0.3:80", "--admin", adminAt)
		for range 3 {
			wantTOA(t, g, client4).Expect(t, "backend", "10.66.0.3:80")
		}
		if first() != 0 || second() != 3 {
			t.Errorf("%d connections at the first server and %d at the second; want 0 and 3", first(), second())
		}
		g.WaitLog(t, "backend down").Expect(t, "detail", "10.66.0.2:80")
	})
}

// A device that strips the option after the SYN: the server never accepts, and the gateway says so.
func TestTOAGatewayStripped(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newTOAHosts(t)
		h.attachGateway(t)
		h.attachServer(t, 0)
		accepted := h.listen(t, 0, "tcp")
		h.hosts[0].Output(t, "nft", "add table inet strip; add chain inet strip in { type filter hook prerouting priority raw; }; "+
			"add rule inet strip in tcp flags & syn == 0 reset tcp option 254")
		g := h.start(t, "10.66.0.2:80")
		line := refusedTOA(t, g, client4, "toa_unread")
		line.Expect(t, "phase", "relay", "by", "timeout")
		if n := accepted(); n != 0 {
			t.Errorf("the server has accepted %d connections", n)
		}
		h.hosts[0].Output(t, "nft", "delete table inet strip")
		wantTOA(t, g, client4)
	})
}

// An IPv6 client of an IPv4 backend: refused, carried to a server that listens for both families, and never
// accepted by one that does not.
func TestTOAGatewayFamilies(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newTOAHosts(t)
		h.attachGateway(t)
		h.attachServer(t, 0)
		h.attachServer(t, 1)
		h.listen(t, 0, "tcp")
		only4 := h.listen(t, 1, "tcp4")
		carry := h.start(t, "10.66.0.2:80", "--family-mismatch", "carry")
		wantTOA(t, carry, client6)
		wantTOA(t, carry, client4)
		carry.Signal(syscall.SIGTERM)
		carry.Wait(t)
		reject := h.start(t, "10.66.0.2:80")
		refusedTOA(t, reject, client6, "family_mismatch")
		reject.Signal(syscall.SIGTERM)
		reject.Wait(t)
		other := h.start(t, "10.66.0.3:80", "--family-mismatch", "carry")
		refusedTOA(t, other, client6, "toa_unread")
		if only4() != 0 {
			t.Errorf("a socket that cannot show the client has accepted %d connections", only4())
		}
		wantTOA(t, other, client4)
	})
}

// Two gateways on different hosts serve one backend, each with its own clients.
func TestTOAGatewaysOfOneBackend(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		h := newTOAHosts(t)
		h.attachServer(t, 0, carryAddress+"/32", "10.66.0.3/32")
		h.listen(t, 0, "tcp")
		h.attachGateway(t)
		if _, err := attach.AttachGateway(h.servers[1].Path); err != nil {
			t.Fatal(err)
		}
		one := h.start(t, "10.66.0.2:80")
		there := h.hosts[1].On(lab.Command{Name: lab.Binary(t)})
		program := programIn(t, h.servers[1], append([]string{there.Name}, there.Args...)...)
		two := lab.StartGatewayAs(t, lab.Command{Name: program}, "--forward", "10.66.0.3:2000=10.66.0.2:80", "--trust", hostAddress, "--transparent", "toa", "--self-test-interval", "0")
		other := netip.MustParseAddrPort("198.51.100.7:4711")
		for range 2 {
			wantTOA(t, one, client4)
			wantTOA(t, two, other)
		}
	})
}
