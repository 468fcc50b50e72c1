package routing_test

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/netns"
	"unproxy/transparent/routing"
)

// The kinds of addresses, as seen by the host.
const (
	foreign  = ""
	own      = "own"
	replaced = "replaced"
)

// kindOf returns the kind of a.
func kindOf(t *testing.T, a string) string {
	t.Helper()
	ours, others, err := routing.OwnAddresses()
	if err != nil {
		t.Fatal(err)
	}
	contains := func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr(a)) }
	switch {
	case slices.ContainsFunc(others, contains):
		return replaced
	case slices.ContainsFunc(ours, contains):
		return own
	}
	return foreign
}

// The type of a route determines the kind of an address. Each step runs commands and
// looks up addresses.
func TestOwnAddressesAreThoseOfTheRoutes(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		host(t)
		for _, tt := range []struct {
			name, commands string
			want           map[string]string
		}{
			{"addresses", "", map[string]string{
				"127.0.0.1": own, "127.8.8.8": own, "::1": own, "198.51.100.5": own, "10.8.0.1": own, "fd08::1": own,
				"10.8.0.7": foreign, "fd08::7": foreign, "203.0.113.9": foreign, "2001:db8::9": foreign,
			}},
			{"broadcast by default", "", map[string]string{"10.8.0.255": replaced, "10.8.0.254": foreign}},
			{"broadcast that is not the last address", "address add 10.77.0.1/24 broadcast 10.77.0.99 dev br0",
				map[string]string{"10.77.0.99": replaced, "10.77.0.255": replaced, "10.77.0.98": foreign}},
			{"removed again", "address del 10.77.0.1/24 dev br0",
				map[string]string{"10.77.0.99": foreign, "10.77.0.255": foreign, "10.77.0.1": foreign}},
			{"no broadcast (RFC 3021)", "address add 10.79.0.1/31 dev br0",
				map[string]string{"10.79.0.0": foreign, "10.79.0.1": own}},
			{"network on lo", "address add 10.78.0.1/24 dev lo", map[string]string{"10.78.0.9": own}},
			{"AnyIP", "route add local 192.0.2.0/24 dev lo; -6 route add local 2001:db8:5::/48 dev lo",
				map[string]string{"192.0.2.9": own, "2001:db8:5:1::9": own, "192.0.3.9": foreign, "2001:db8:6::1": foreign}},
			{"AnyIP removed", "route del local 192.0.2.0/24 dev lo; -6 route del local 2001:db8:5::/48 dev lo",
				map[string]string{"192.0.2.9": foreign, "2001:db8:5:1::9": foreign}},
			{"AnyIP in table main", "route add local 192.0.2.0/24 dev lo table main", map[string]string{"192.0.2.9": own}},
			{"routes by type", "route add broadcast 10.80.0.9 dev br0 table local; " +
				"route add multicast 10.80.0.10 dev br0 table local; route add anycast 10.80.0.11 dev br0 table local",
				map[string]string{"10.80.0.9": replaced, "10.80.0.10": replaced, "10.80.0.11": own, "10.80.0.12": foreign}},
			{"IPv6 by type", "-6 route add anycast 2001:db8:7::9 dev br0 table local",
				map[string]string{"2001:db8:7::9": own, "2001:db8:7::8": foreign}},
			{"table that a rule for marks looks up", "route add local default dev lo table 7700; " +
				"-6 route add local default dev lo table 7700; rule add fwmark 1 lookup 7700; -6 rule add fwmark 1 lookup 7700",
				map[string]string{"203.0.113.9": foreign, "2001:db8::9": foreign}},
			{"table that a rule for a backend looks up",
				"rule add from 10.8.0.7 iif br0 ipproto tcp sport 25 lookup 7700; rule add from 10.8.0.8 lookup 7700",
				map[string]string{"203.0.113.9": foreign}},
			{"table that a rule for destinations looks up", "rule add to 203.0.113.0/28 lookup 7700",
				map[string]string{"203.0.113.9": own, "203.0.113.16": foreign}},
			{"table that no rule looks up", "route add local 192.88.99.0/24 dev lo table 99",
				map[string]string{"192.88.99.1": foreign}},
			{"table that a rule for all packets looks up", "rule add lookup 99", map[string]string{"192.88.99.1": own}},
			{"inverted rule", "route add local 192.31.196.0/24 dev lo table 98; rule add not from 10.0.0.1 lookup 98",
				map[string]string{"192.31.196.1": foreign}},
		} {
			for _, command := range strings.Split(tt.commands, "; ") {
				if command != "" {
					netns.IP(t, command)
				}
			}
			for a, want := range tt.want {
				if got := kindOf(t, a); got != want {
					t.Errorf("%s: %s is %q, want %q", tt.name, a, got, want)
				}
			}
		}
	})
}

// The subnet-router anycast address is the host's own while it forwards (RFC 4291,
// section 2.6.1).
func TestSubnetRouterAnycastAddressIsOwn(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		host(t)
		if got := kindOf(t, "fd08::"); got != foreign {
			t.Errorf("fd08:: is %q on a host that does not forward", got)
		}
		netns.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
		await.Until(t, "fd08:: is own on a host that forwards", func() bool { return kindOf(t, "fd08::") == own })
	})
}

// Addresses of interfaces that are down have no routes yet.
func TestAddressOfAnInterfaceThatIsDownIsOwn(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "link add br0 type bridge")
		netns.IP(t, "address add 10.77.0.1/24 broadcast 10.77.0.99 dev br0")
		for a, want := range map[string]string{"10.77.0.1": own, "10.77.0.99": replaced, "10.77.0.255": replaced} {
			if got := kindOf(t, a); got != want {
				t.Errorf("%s is %q, want %q", a, got, want)
			}
		}
	})
}

// Each change of an address, a typed route or a rule is an event.
func TestAddressWatchSeesEveryChange(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		host(t)
		watch, err := routing.WatchAddresses()
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Close()
		for _, command := range []string{
			"address add 10.77.0.1/24 broadcast 10.77.0.99 dev br0",
			"address del 10.77.0.1/24 dev br0",
			"-6 address add 2001:db8::5/64 dev br0 nodad",
			"-6 address del 2001:db8::5/64 dev br0",
			"route add local 192.0.2.0/24 dev lo",
			"route del local 192.0.2.0/24 dev lo",
			"-6 route add local 2001:db8:5::/48 dev lo",
			"-6 route del local 2001:db8:5::/48 dev lo",
			"route add broadcast 10.80.0.9 dev br0 table local",
			"rule add lookup 99",
			"-6 rule del lookup main",
			"link set br0 down",
		} {
			forget(t, watch)
			netns.IP(t, command)
			wait(t, watch, command)
		}
	})
}

// Unicast routes cause no events, because a routing daemon may change thousands.
func TestAddressWatchIgnoresOrdinaryRoutes(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		watch, err := routing.WatchAddresses()
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Close()
		forget(t, watch)
		netns.IP(t, "route add 10.5.0.0/16 dev lo")
		netns.IP(t, "-6 route add 2001:db8:9::/48 dev lo")
		netns.IP(t, "route del 10.5.0.0/16 dev lo")
		if any, err := watch.Collect(50 * time.Millisecond); any || err != nil {
			t.Errorf("after a change of ordinary routes: %v, %v", any, err)
		}
		netns.IP(t, "route add local 10.5.0.0/16 dev lo")
		wait(t, watch, "a local route")
	})
}

// forget reads and discards all pending events.
func forget(t *testing.T, watch *routing.AddressWatch) {
	t.Helper()
	for {
		any, err := watch.Collect(20 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if !any {
			return
		}
	}
}

// wait waits for an event.
func wait(t *testing.T, watch *routing.AddressWatch, what string) {
	t.Helper()
	await.Until(t, "event of "+what, func() bool {
		any, err := watch.Collect(10 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return any
	})
}

// A lost event is reported once. Afterwards events arrive again.
func TestAddressWatchReportsLostEvents(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		host(t)
		watch, err := routing.WatchAddresses()
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Close()
		for i := range 4000 {
			to := &net.IPNet{IP: net.IPv4(192, 0, byte(i/250), byte(i%250)), Mask: net.CIDRMask(32, 32)}
			route := &netlink.Route{LinkIndex: 1, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
				Scope: netlink.SCOPE_HOST, Dst: to}
			if err := netlink.RouteAdd(route); err != nil {
				t.Fatal(err)
			}
		}
		lost := false
		await.Until(t, "the loss", func() bool {
			_, err := watch.Collect(10 * time.Millisecond)
			lost = lost || errors.Is(err, routing.ErrEventsLost)
			if err != nil && !errors.Is(err, routing.ErrEventsLost) {
				t.Fatal(err)
			}
			return lost
		})
		forget(t, watch)
		netns.IP(t, "route add local 203.0.113.9 dev lo")
		wait(t, watch, "a route after the loss")
	})
}

// Close ends a Wait without a timeout.
func TestAddressWatchCloseEndsWait(t *testing.T) {
	watch, err := routing.WatchAddresses()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		for {
			if err := watch.Wait(time.Hour); err != nil {
				ended <- err
				return
			}
		}
	}()
	watch.Close()
	if err := <-ended; errors.Is(err, routing.ErrEventsLost) {
		t.Errorf("Wait: %v", err)
	}
}
