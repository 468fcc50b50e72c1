package forward_test

import (
	"net/netip"
	"slices"
	"testing"

	"unproxy/gateway/forward"
)

type addresses []netip.Addr

func (a addresses) Contains(one netip.Addr) bool { return slices.Contains(a, one) }

// Receives covers all addresses by which the host reaches a listener.
func TestOwnListeners(t *testing.T) {
	own := addresses{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	const tcp, udp = false, true
	for _, tt := range []struct {
		at        string
		dual      bool
		datagrams bool
		to        string
		want      bool
	}{
		{"127.0.0.1:9180", false, tcp, "127.0.0.1:9180", true},
		{"127.0.0.1:9180", false, tcp, "127.0.0.1:9181", false},
		{"127.0.0.1:9180", false, tcp, "127.0.0.2:9180", false},
		{"127.0.0.1:9180", false, tcp, "192.0.2.1:9180", false},
		{"[::1]:9180", false, tcp, "[::1]:9180", true},
		{"[::1]:9180", false, tcp, "127.0.0.1:9180", false},
		{"[::]:9180", true, tcp, "127.0.0.1:9180", true},
		{"[::]:9180", true, tcp, "127.1.2.3:9180", true},
		{"[::]:9180", true, tcp, "192.0.2.1:9180", true},
		{"[::]:9180", true, tcp, "[::1]:9180", true},
		{"[::]:9180", true, tcp, "[2001:db8::1]:9180", true},
		{"[::]:9180", true, tcp, "[2001:db8::2]:9180", false},
		{"[::]:9180", true, tcp, "192.0.2.2:9180", false},
		{"[::]:9180", false, tcp, "192.0.2.1:9180", false},
		{"0.0.0.0:9180", false, tcp, "192.0.2.1:9180", true},
		{"0.0.0.0:9180", false, tcp, "[2001:db8::1]:9180", false},
		{"0.0.0.0:9180", false, tcp, "224.0.0.1:9180", false},
		{"0.0.0.0:9180", false, udp, "224.0.0.1:9180", true}, // the all-hosts group, of which every host is a member
		{"[::]:9180", false, udp, "[ff02::1]:9180", true},
		{"0.0.0.0:9180", false, udp, "127.0.0.1:9180", true},
		{"[fe80::1%lo]:9180", false, tcp, "[fe80::1]:9180", true},
		{"[::ffff:127.0.0.1]:9180", false, tcp, "127.0.0.1:9180", true}, // as systemd may pass it
	} {
		to := netip.MustParseAddrPort(tt.to)
		var all forward.OwnListeners
		all.Add(forward.OwnListener{Addr: netip.MustParseAddrPort("127.0.0.1:1")})
		all.Add(forward.OwnListener{Addr: netip.MustParseAddrPort(tt.at), DualStack: tt.dual, Datagrams: tt.datagrams},
			forward.OwnListener{Addr: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.5"), to.Port()), Datagrams: tt.datagrams},
			forward.OwnListener{Addr: netip.MustParseAddrPort("127.0.0.1:65535")})
		if got := all.Receive(to, tt.datagrams, own); got != tt.want {
			t.Errorf("%s (dual-stack %v) receives %s: %v", tt.at, tt.dual, tt.to, got)
		}
		if all.Receive(to, !tt.datagrams, own) {
			t.Errorf("%s receives %s of the other protocol", tt.at, tt.to)
		}
	}
	var none *forward.OwnListeners
	if none.Receive(netip.MustParseAddrPort("127.0.0.1:1"), tcp, own) || (&forward.OwnListeners{}).Receive(netip.MustParseAddrPort("127.0.0.1:1"), tcp, nil) {
		t.Error("an empty OwnListeners receives packets")
	}
}

// Listeners are found in whatever order they were added, and by their own protocol alone,
// on every port.
func TestOwnListenersOfManyPorts(t *testing.T) {
	var all forward.OwnListeners
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port) }
	ports := []uint16{65535, 1, 40000, 25, 32768, 9180, 2}
	for i, port := range ports {
		all.Add(forward.OwnListener{Addr: at(port), Datagrams: i%2 == 0})
	}
	for i, port := range ports {
		if datagrams := i%2 == 0; !all.Receive(at(port), datagrams, nil) || all.Receive(at(port), !datagrams, nil) {
			t.Errorf("port %d, datagrams %v: received by %v and the other protocol by %v", port, datagrams,
				all.Receive(at(port), datagrams, nil), all.Receive(at(port), !datagrams, nil))
		}
	}
	for _, port := range []uint16{0, 3, 40001, 65534} {
		if all.Receive(at(port), false, nil) || all.Receive(at(port), true, nil) {
			t.Errorf("port %d has no listener", port)
		}
	}
	// Several listeners of one port are all asked.
	other := netip.MustParseAddrPort("127.0.0.2:1")
	all.Add(forward.OwnListener{Addr: other}, forward.OwnListener{Addr: netip.MustParseAddrPort("127.0.0.3:1")})
	for _, to := range []netip.AddrPort{at(1), other, netip.MustParseAddrPort("127.0.0.3:1")} {
		if !all.Receive(to, false, nil) {
			t.Errorf("%v has a listener", to)
		}
	}
	one := forward.OwnListener{Addr: at(25)}
	if !one.Receives(at(25), nil) || one.Receives(at(26), nil) || (forward.OwnListener{}).Receives(netip.AddrPort{}, nil) {
		t.Error("a listener receives what is for another port, or one without an address receives")
	}
}
