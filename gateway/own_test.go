package gateway

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/supervise"
	"unproxy/integration_test/await"
	"unproxy/integration_test/netns"
)

// newGateway opens a gateway whose first forward leads where the header says.
func newGateway(t *testing.T, notice func(engine.Notice), forwards ...string) *Gateway {
	t.Helper()
	c, _, err := load(append([]string{"127.0.0.1:0=header"}, forwards...), "allow-destination 127.0.0.0/8", "loops 1")
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(c, Observer{Notice: notice})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// start runs a gateway until the end of the test.
func start(t *testing.T, g *Gateway) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { g.Run(ctx) })
	t.Cleanup(func() { stop(); g.Hurry(); running.Wait() })
	<-g.Started()
}

// All listeners are known with the ports that they got, of each forward, protocol and
// range, and those that the process adds.
func TestEveryListenerIsKnownAsOwn(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		g := newGateway(t, nil, ":0=127.0.0.1:9", "127.0.0.1:4000-4004=127.0.0.1:9", "udp://:0=127.0.0.1:9",
			"udp://127.0.0.2:5000-5002=127.0.0.1:9", "unix:"+t.TempDir()+"/s=127.0.0.1:9")
		g.Reserve(forward.OwnListener{Addr: netip.MustParseAddrPort("127.0.0.1:9180"), DualStack: true})
		start(t, g)
		known := func(a string, udp bool) bool {
			return g.config.Forwards[0].OwnListeners.Receive(netip.MustParseAddrPort(a), udp, g.own)
		}
		n := 0
		for _, b := range g.Bound() {
			if b.Addr.IsUnix() {
				continue
			}
			n++
			a := b.Addr.Addr
			if a.Addr().IsUnspecified() {
				a = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port())
			}
			if a.Port() == 0 || !known(a.String(), b.Forward.Datagrams) {
				t.Errorf("%v (UDP %v) is not known", b.Addr, b.Forward.Datagrams)
			}
		}
		if n != 1+1+5+1+3 {
			t.Errorf("%d listeners", n)
		}
		if !known("127.0.0.1:9180", false) {
			t.Error("what the process added is not known")
		}
		for _, a := range []string{"127.0.0.1:4005", "127.0.0.1:5000", "127.0.0.2:4000"} {
			if known(a, false) {
				t.Errorf("%s is known, but it is no listener", a)
			}
		}
	})
}

// After an upgrade the sockets are inherited: their addresses count, not those of the
// configuration.
func TestInheritedListenersAreKnownAsOwn(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		before := newGateway(t, nil, "127.0.0.1:0=127.0.0.1:9")
		start(t, before)
		sockets, err := before.Sockets()
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := load([]string{"127.0.0.1:0=header", "127.0.0.1:0=127.0.0.1:9"}, "allow-destination 127.0.0.0/8", "loops 1")
		if err != nil {
			t.Fatal(err)
		}
		var handed []supervise.Socket
		for _, s := range sockets {
			handed = append(handed, supervise.Socket{Name: s.Name, FD: s.FD, Addr: s.Bound.Addr})
		}
		if left, err := Adopt(c, handed); err != nil || len(left) > 0 {
			t.Fatalf("%d sockets left, %v", len(left), err)
		}
		g, err := New(c, Observer{})
		if err != nil {
			t.Fatal(err)
		}
		start(t, g)
		for _, b := range before.Bound() {
			if !g.listeners.Receive(b.Addr.Addr, false, g.own) {
				t.Errorf("%v is not known", b.Addr)
			}
		}
	})
}

// The host's addresses are current after each change, without a timer.
func TestOwnAddressesFollowTheHost(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "link add br0 type bridge")
		netns.IP(t, "link set br0 up")
		g := newGateway(t, func(n engine.Notice) { t.Errorf("notice %s: %v", n.Event, n.Err) })
		g.ownEvery = time.Hour
		start(t, g)
		replaced := g.own.Replaced()
		for _, tt := range []struct {
			command  string
			set      interface{ Contains(netip.Addr) bool }
			contains bool
			address  string
		}{
			{"address add 10.77.0.1/24 broadcast 10.77.0.99 dev br0", g.own, true, "10.77.0.1"},
			{"", replaced, true, "10.77.0.99"},
			{"address del 10.77.0.1/24 dev br0", replaced, false, "10.77.0.99"},
			{"", g.own, false, "10.77.0.1"},
			{"-6 address add 2001:db8::5/64 dev br0 nodad", g.own, true, "2001:db8::5"},
			{"-6 address del 2001:db8::5/64 dev br0", g.own, false, "2001:db8::5"},
			{"route add local 192.0.2.0/24 dev lo", g.own, true, "192.0.2.200"},
			{"route del local 192.0.2.0/24 dev lo", g.own, false, "192.0.2.200"},
			{"-6 route add local 2001:db8:5::/48 dev lo", g.own, true, "2001:db8:5:6::7"},
			{"route add local default dev lo table 99", g.own, false, "203.0.113.9"},
			{"rule add lookup 99", g.own, true, "203.0.113.9"},
			{"rule del lookup 99", g.own, false, "203.0.113.9"},
		} {
			if tt.command != "" {
				netns.IP(t, tt.command)
			}
			await.Until(t, tt.command+": "+tt.address, func() bool {
				return tt.set.Contains(netip.MustParseAddr(tt.address)) == tt.contains
			})
		}
	})
}

// When the addresses cannot be listed, the last ones stay, a notice says so, and the
// next event or second brings them up to date.
func TestUnknownAddressesKeepTheLastOnes(t *testing.T) {
	// See TestOwnAddresses in package transparent for the failing list.
	netns.Run(t, func(t *testing.T) {
		noticed := make(chan engine.Notice, 100)
		g := newGateway(t, func(n engine.Notice) { noticed <- n })
		g.watch.Close() // the subscription breaks
		start(t, g)
		if n := await.Receive(t, "the notice", noticed); n.Event != "addresses_unknown" || n.Err == nil {
			t.Errorf("notice %+v", n)
		}
		if !g.own.Contains(netip.MustParseAddr("127.0.0.1")) {
			t.Error("127.0.0.1 is not known any more")
		}
		netns.IP(t, "address add 198.51.100.5/32 dev lo")
		await.Until(t, "the new address, after the gateway has subscribed again", func() bool {
			return g.own.Contains(netip.MustParseAddr("198.51.100.5"))
		})
	})
}
