package datagram

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
)

var ownA, ownB = netip.MustParseAddr("10.9.0.8"), netip.MustParseAddr("10.9.0.9")

func fromOwn(f *forward.Forward) {
	f.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("10.9.0.8/31"), netip.MustParsePrefix("2001:db8:9::8/128")}
}

// Flows take the addresses of the backend's family in turn. One without a free port is followed by
// the next; if none has one, a flow is evicted, and without another flow it is a limit.
func TestSourceAddresses(t *testing.T) {
	own6 := netip.MustParseAddr("2001:db8:9::8")
	for _, row := range []struct {
		name     string
		backends []netip.AddrPort
		fails    map[netip.Addr]syscall.Errno
		from     []netip.Addr // of two flows
		drops    map[Drop]uint64
	}{
		{"in turn", []netip.AddrPort{server}, nil, []netip.Addr{ownA, ownB}, nil},
		{"IPv6", []netip.AddrPort{server6}, nil, []netip.Addr{own6, own6}, nil},
		{"the first is full", []netip.AddrPort{server}, map[netip.Addr]syscall.Errno{ownA: unix.EAGAIN},
			[]netip.Addr{ownB, ownB}, nil},
		{"the first is lost", []netip.AddrPort{server}, map[netip.Addr]syscall.Errno{ownA: unix.EADDRNOTAVAIL},
			[]netip.Addr{ownB, ownB}, nil},
		{"both are full", []netip.AddrPort{server}, map[netip.Addr]syscall.Errno{ownA: unix.EAGAIN, ownB: unix.EAGAIN},
			nil, map[Drop]uint64{Limit: 2}},
		{"one is full, one is lost", []netip.AddrPort{server},
			map[netip.Addr]syscall.Errno{ownA: unix.EAGAIN, ownB: unix.EADDRNOTAVAIL}, nil, map[Drop]uint64{Limit: 2}},
		{"both are lost", []netip.AddrPort{server},
			map[netip.Addr]syscall.Errno{ownA: unix.EADDRNOTAVAIL, ownB: unix.EADDRNOTAVAIL}, nil,
			map[Drop]uint64{BackendUnreachable: 2}},
		{"the next backend", []netip.AddrPort{server, server6},
			map[netip.Addr]syscall.Errno{ownA: unix.EAGAIN, ownB: unix.EAGAIN}, []netip.Addr{own6, own6}, nil}, // no flow has a port of ownA or ownB to evict
	} {
		t.Run(row.name, func(t *testing.T) {
			r := one(t, with(plain(row.backends...), fromOwn))
			r.connectError = func(_, from netip.AddrPort) syscall.Errno {
				if errno := row.fails[from.Addr()]; errno != unix.EADDRNOTAVAIL {
					return errno
				}
				return 0
			}
			r.bindError = func(a netip.AddrPort) syscall.Errno {
				if errno := row.fails[a.Addr()]; errno == unix.EADDRNOTAVAIL {
					return errno
				}
				return 0
			}
			r.from(lb, a+"x", b+"x")
			var got []netip.Addr
			for _, s := range r.backs() {
				got = append(got, s.bound.Addr())
				if s.options[[2]int{unix.IPPROTO_IP, unix.IP_TRANSPARENT}] == 1 {
					t.Error("the socket is transparent")
				}
			}
			if !slices.Equal(got, row.from) {
				t.Errorf("flows from %v, want %v", got, row.from)
			}
			r.dropped(row.drops)
			r.pass(time.Minute + time.Second)
			for _, c := range r.records {
				if c.Transparent || !c.Source.IsValid() || c.Source.Port() == 0 {
					t.Errorf("recorded source %v, transparent %v", c.Source, c.Transparent)
				}
			}
			r.clean()
		})
	}
}

// If no address has a free port, the flow that was idle longest makes room, and the newcomer takes
// the port that it had, although that address rests.
func TestEvictionFreesSourceAddress(t *testing.T) {
	r := one(t, with(plain(server), func(f *forward.Forward) {
		f.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/28")}
	}))
	r.connectError = func(_, from netip.AddrPort) syscall.Errno {
		for _, s := range r.backs() {
			if s.bound.Addr() == from.Addr() && s.to.IsValid() {
				return unix.EAGAIN // one port for each address
			}
		}
		return 0
	}
	for i := range 40 {
		r.from(lb, at(i)+"x")
	}
	if n := r.relay.Counters(); n.Flows != 16 || n.Evicted != 24 {
		t.Errorf("counted %+v", n)
	}
	r.dropped(nil)
}

// A flow without a source port evicts only a flow whose port it can take: of an address that it may
// use, of its own family, and of those that the kernel chooses.
func TestEvictionOnlyFreesPortsOfTheSameKind(t *testing.T) {
	r := one(t, with(plain(server), fromOwn))
	r.relay.config.Ephemeral = &kernel.EphemeralPorts{Range: kernel.PortRange{First: 32768, Last: 60999}}
	own := r.worker().lists[0]
	none := one(t, plain(server)).worker().lists[0]
	other, own6 := netip.MustParseAddr("10.9.0.77"), netip.MustParseAddr("2001:db8:9::8")
	from := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	flowTo := func(l *lruList, backend, source netip.AddrPort, spoof bool) *flow {
		return &flow{list: l, backend: forward.Endpoint{Addr: backend}, source: source, spoof: spoof, fd: 9}
	}
	pooled, unbound := flowTo(own, server, from(ownA, 0), false), flowTo(none, server, netip.AddrPort{}, false)
	client := flowTo(none, server, from(other, 0), true)
	closed := flowTo(own, server, from(ownA, 40000), false)
	closed.fd = -1
	for _, row := range []struct {
		name         string
		of, newcomer *flow
		want         bool
	}{
		{"an address of the forward", flowTo(own, server, from(ownB, 40000), false), pooled, true},
		{"its address in another forward", flowTo(none, server, from(ownA, 40000), true), pooled, true},
		{"another address", flowTo(none, server, from(other, 40000), true), pooled, false},
		{"an address that the kernel chose", unbound, pooled, false},
		{"the other family of the forward", flowTo(own, server6, from(own6, 40000), false), pooled, false},
		{"not connected", closed, pooled, false},
		{"a flow of the pool, for any address", flowTo(own, server, from(ownA, 40000), false), unbound, true},
		{"an unbound one, for any address", flowTo(none, server, netip.AddrPort{}, false), unbound, true},
		{"the other family", flowTo(none, server6, netip.AddrPort{}, false), unbound, false},
		{"a client's port that the kernel does not choose", flowTo(none, server, from(other, 500), true), unbound, false},
		{"the same client", flowTo(none, server, from(other, 40001), true), client, true},
		{"another client", flowTo(none, server, from(ownA, 40001), true), client, false},
	} {
		if got := r.worker().freesPort(row.of, row.newcomer); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

// Flows that do not help stay, and one that helps is found behind them.
func TestEvictionSkipsFlowsThatDoNotHelp(t *testing.T) {
	down := map[netip.AddrPort]bool{}
	r := one(t, with(plain(server6, server), fromOwn))
	r.connectError = func(to, from netip.AddrPort) syscall.Errno {
		if down[to] {
			return unix.ECONNREFUSED
		}
		for _, s := range r.backs() {
			if s.bound.Addr() == from.Addr() && from.Addr().Is4() && s.to.IsValid() {
				return unix.EAGAIN // one port for each address of IPv4
			}
		}
		return 0
	}
	for i := range 3 { // the oldest ones, from the IPv6 address
		r.from(lb, v2(netip.AddrPortFrom(client6.Addr(), uint16(1000+i)), dest6)+"x")
	}
	down[server6] = true
	for i := range 5 {
		r.from(lb, at(i)+"x")
	}
	v6 := 0
	for _, s := range r.backs() {
		if s.bound.Addr().Is6() {
			v6++
		}
	}
	if n := r.relay.Counters(); v6 != 3 || n.Flows != 5 || n.Evicted != 3 {
		t.Errorf("%d flows from the IPv6 address, counted %+v; want 3, and of IPv4 2 flows and 3 evicted", v6, n)
	}
	r.dropped(nil)
}

// An upgrade takes the flows whose source address the new process has, too.
func TestSharesSource(t *testing.T) {
	r := one(t, with(plain(server), fromOwn))
	l := r.worker().lists[0]
	none := one(t, plain(server)).worker().lists[0]
	from := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 45000) }
	for _, row := range []struct {
		name  string
		state flowState
		list  *lruList
		want  bool
	}{
		{"the same address", flowState{source: from(ownA), backend: server}, l, true},
		{"another address", flowState{source: from(netip.MustParseAddr("10.9.0.7")), backend: server}, l, false},
		{"no address any more", flowState{source: from(ownA), backend: server}, none, false},
		{"none before", flowState{backend: server}, l, false},
		{"none at all", flowState{backend: server}, none, true},
		{"a client's", flowState{source: clientA, spoof: true, backend: server}, none, true},
	} {
		if got := row.state.sharesSource(row.list); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
}
