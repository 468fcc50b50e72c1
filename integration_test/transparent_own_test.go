package integration_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// ownByRoute are addresses that only a route makes the host's own, or one that the
// kernel replaces, in order of the commands that add and remove each. The kernel
// would show 127.0.0.1 or ::1 to the backend for some of them.
var ownByRoute = []struct{ name, add, address, remove string }{
	{"broadcast that is not the last address", "address add 10.77.0.1/24 brd 10.77.0.99 dev br0", "10.77.0.99",
		"address del 10.77.0.1/24 dev br0"},
	{"broadcast by route", "route add broadcast 10.78.0.9 dev br0 table local", "10.78.0.9",
		"route del broadcast 10.78.0.9 dev br0 table local"},
	{"multicast by route", "route add multicast 10.78.0.10 dev br0 table local", "10.78.0.10",
		"route del multicast 10.78.0.10 dev br0 table local"},
	{"AnyIP", "route add local 192.0.2.0/24 dev lo", "192.0.2.77", "route del local 192.0.2.0/24 dev lo"},
	{"a new address", "address add 198.51.100.7/32 dev lo", "198.51.100.7", "address del 198.51.100.7/32 dev lo"},
	{"IPv6 AnyIP", "-6 route add local 2001:db8:5::/48 dev lo", "2001:db8:5::77", "-6 route del local 2001:db8:5::/48 dev lo"},
	{"IPv6 anycast", "-6 route add anycast 2001:db8:6:: dev br0 table local", "2001:db8:6::",
		"-6 route del anycast 2001:db8:6:: dev br0 table local"},
	{"a new IPv6 address", "-6 address add 2001:db8:7::7/128 dev lo nodad", "2001:db8:7::7",
		"-6 address del 2001:db8:7::7/128 dev lo"},
}

func bridge(t *testing.T) {
	t.Helper()
	netns.IP(t, "link add br0 type bridge")
	netns.IP(t, "link set br0 up")
}

// test ──header──▶ unproxy ──▶ test 127.0.0.1:25, [::1]:25
//
// Addresses that become the host's own while the gateway runs are denied, and are
// clients again when they are gone.
func TestTransparentDeniesWhatRoutesMakeOwn(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		bridge(t)
		const backends = "127.0.0.1:25,[::1]:25"
		for _, b := range strings.Split(backends, ",") {
			greetClients(t, b)
			returnPath(t, b)
		}
		g := lab.StartGateway(t, transparentFlags(backends)...)
		served := func(client string) bool {
			c := lab.Send(t, g.Address(t, 0), append(headerOf(source(client)), "payload"...))
			defer c.Close()
			n, _ := c.Read(make([]byte, 1))
			return n > 0
		}
		for _, tt := range ownByRoute {
			if !served(tt.address) {
				t.Errorf("%s: %s is not served before it is the host's own", tt.name, tt.address)
			}
			netns.IP(t, tt.add)
			await.Until(t, tt.name+" is denied", func() bool { return !served(tt.address) })
			netns.IP(t, tt.remove)
			await.Until(t, tt.name+" is a client again", func() bool { return served(tt.address) })
		}
	})
}

// greetClients listens on an address, greets clients, and closes. It fails the test if
// anything comes from this host's own loopback address.
func greetClients(t *testing.T, address string) {
	t.Helper()
	lab.Serve(t, address, func(c net.Conn) {
		if from := lab.Peer(c); !from.Addr().IsLoopback() {
			c.Write([]byte("hello"))
		} else if n, _ := c.Read(make([]byte, 1)); n > 0 {
			t.Errorf("the backend received payload from %v", from)
		}
	})
}

// --allow-source does not permit what the kernel turns into 127.0.0.1, and permits
// the rest.
func TestTransparentAllowSourceWithBroadcast(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		bridge(t)
		netns.IP(t, "address add 10.77.0.1/24 brd 10.77.0.99 dev br0")
		b := lab.Listen(t, "127.0.0.1:25")
		g := transparentGateway(t, "127.0.0.1:25", "--allow-source", "10.77.0.0/24", "--allow-source", "0.0.0.0/8")
		for _, client := range []string{"10.77.0.99", "10.77.0.255", "0.0.0.0"} {
			wantEnd(t, lab.Send(t, g.Address(t, 0), append(headerOf(source(client)), "payload"...)))
			g.NextConnection(t).Expect(t, "client", source(client).String(), "outcome", "source_denied")
		}
		lab.Send(t, g.Address(t, 0), headerOf(source("10.77.0.1")), []byte("payload")).CloseWrite()
		c := b.Next(t)
		wantRead(t, c, "payload")
		if got := lab.Peer(c); got != source("10.77.0.1") {
			t.Errorf("the backend saw %v", got)
		}
	})
}

// lb ──header──▶ unproxy 127.0.0.1:2000 ──▶ 127.0.0.1:3000
func TestUDPTransparentDeniesWhatRoutesMakeOwn(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		bridge(t)
		netns.IP(t, "address add 10.77.0.1/24 brd 10.77.0.99 dev br0")
		netns.IP(t, "route add local 192.0.2.128/25 dev lo")
		backend, peer := lab.ListenUDP(t, "127.0.0.1:3000"), lab.ListenUDP(t, "127.0.0.1:0")
		g := udpGateway(t, "--transparent", "--allow-source", "10.77.0.0/24")
		for _, client := range []string{"10.77.0.99:53", "192.0.2.200:53"} {
			peer.Send(t, gatewayUDP, lab.V2Datagram(netip.MustParseAddrPort(client), dest4, "let me in"))
		}
		line := g.WaitLog(t, "datagrams dropped")
		if !strings.Contains(line.String("detail"), "source_denied") {
			t.Errorf("logged %v", line)
		}
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		if from := backend.Expect(t, "hello"); from != client4 { // nothing came before it
			t.Errorf("the backend saw %v, want %v", from, client4)
		}
	})
}
