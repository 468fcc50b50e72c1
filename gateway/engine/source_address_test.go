package engine

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
)

var (
	ownA  = netip.MustParseAddr("10.9.0.8")
	ownB  = netip.MustParseAddr("10.9.0.9")
	own6A = netip.MustParseAddr("2001:db8:9::8")
	own6B = netip.MustParseAddr("2001:db8:9::9")
)

// fromOwn gives a forward two source addresses of each family.
func fromOwn(f *forward.Forward) *forward.Forward {
	f.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("10.9.0.8/31"), netip.MustParsePrefix("2001:db8:9::8/127")}
	return f
}

// full makes connects from the addresses fail because no port is left.
func (r *rig) full(addresses ...netip.Addr) {
	r.onDial = func(f *file) {
		if slices.Contains(addresses, f.source.Addr()) {
			f.plan = plan{errno: unix.EADDRNOTAVAIL}
		}
	}
}

// The addresses of the backend's family are used in turn. One without a free port is followed by the
// next, then by the next backend; without any it is a limit. An address that this host has lost is
// no limit, and says so.
func TestSourceAddresses(t *testing.T) {
	for _, row := range []struct {
		name     string
		backends []forward.Endpoint
		full     []netip.Addr
		lost     []netip.Addr
		from     []netip.Addr // of the dials of two connections
		outcome  record.Outcome
		reason   string
	}{
		{"in turn", []forward.Endpoint{serverA}, nil, nil, []netip.Addr{ownA, ownB}, record.OK, ""},
		{"IPv6", []forward.Endpoint{serverA6}, nil, nil, []netip.Addr{own6A, own6B}, record.OK, ""},
		{"the first is full", []forward.Endpoint{serverA}, []netip.Addr{ownA}, nil,
			[]netip.Addr{ownA, ownB, ownB}, record.OK, ""},
		{"both are full", []forward.Endpoint{serverA}, []netip.Addr{ownA, ownB}, nil,
			[]netip.Addr{ownA, ownB, ownA, ownB}, record.Limit,
			"no source port is left towards the backend: cannot assign requested address"},
		{"both are full, IPv6", []forward.Endpoint{serverA6}, []netip.Addr{own6A, own6B}, nil,
			[]netip.Addr{own6A, own6B, own6A, own6B}, record.Limit,
			"no source port is left towards the backend: cannot assign requested address"},
		{"the next backend", []forward.Endpoint{serverA6, serverA}, []netip.Addr{ownA, ownB}, nil,
			[]netip.Addr{ownA, ownB, own6A, ownA, ownB, own6B}, record.OK, ""},
		{"one is lost", []forward.Endpoint{serverA}, nil, []netip.Addr{ownA}, []netip.Addr{ownB, ownB}, record.OK, ""},
		{"one is lost, one is full", []forward.Endpoint{serverA}, []netip.Addr{ownB}, []netip.Addr{ownA},
			[]netip.Addr{ownB, ownB}, record.Limit,
			"no source port is left towards the backend: cannot assign requested address"},
		{"both are lost", []forward.Endpoint{serverA}, nil, []netip.Addr{ownA, ownB}, nil, record.BackendUnreachable,
			"the source address 10.9.0.9 is not one of this host: cannot assign requested address"},
		{"a unix socket has none", []forward.Endpoint{serverUnix}, nil, nil, []netip.Addr{{}, {}}, record.OK, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newForwardRig(t, fromOwn(plainForward(row.backends...)))
			r.full(row.full...)
			r.bindError = func(a netip.AddrPort) unix.Errno {
				if slices.Contains(row.lost, a.Addr()) {
					return unix.EADDRNOTAVAIL
				}
				return 0
			}
			for i := range 2 {
				from := r.open(header + "hello")
				if row.outcome == record.OK {
					finishBothOf(r, from, len(r.dials)-1)
				}
				c := r.lastRecord(i + 1)
				source := netip.AddrPort{}
				if last := r.dials[max(0, len(r.dials)-1):]; row.outcome == record.OK && last[0].source.IsValid() {
					source = netip.AddrPortFrom(last[0].source.Addr(), ephemeralPort)
				}
				if c.Outcome != row.outcome || c.Transparent || row.outcome == record.OK && c.Source != source ||
					row.reason != "" && i == 0 && c.Reason != row.reason {
					t.Errorf("connection %d: %v %q from %v, transparent %v", i, c.Outcome, c.Reason, c.Source, c.Transparent)
				}
			}
			var got []netip.Addr
			for _, d := range r.dials {
				got = append(got, d.source.Addr())
			}
			if !slices.Equal(got, row.from) {
				t.Errorf("dialled from %v, want %v", got, row.from)
			}
			r.expectClean()
		})
	}
}

// Without an address of the backend's family, the kernel chooses.
func TestSourceAddressOfOneFamily(t *testing.T) {
	f := plainForward(serverA6)
	f.SourceAddresses = []netip.Prefix{netip.PrefixFrom(ownA, 32)}
	r := newForwardRig(t, f)
	finishBoth(r, r.open(header+"x"))
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	if r.dials[0].source.IsValid() {
		t.Errorf("dialled from %v", r.dials[0].source)
	}
}

// A backend that a connection from a source address cannot reach is down, as without one: the
// failure is not that of a client's address. A timeout is not diagnosed as a missing return path.
func TestSourceAddressIsNoClient(t *testing.T) {
	r := newForwardRig(t, fromOwn(remembering(plainForward(serverA, serverB))))
	r.plans[serverA] = []plan{refused}
	r.expectOrder("at first", serverA, serverB)
	r.expectOrder("then", serverB)

	r = newForwardRig(t, fromOwn(plainForward(serverA)))
	r.plans[serverA] = []plan{{waits: -1}}
	r.open(header)
	r.advance(7 * time.Second)
	r.expectEnd(1, record.ConnectTimeout, record.Dial, record.Timeout)
}

// A connection from a source address allocates no more than another one: nothing.
func TestSourceAddressAllocatesNothing(t *testing.T) {
	r := newSteadyRig(t, fromOwn(plainForward(serverA)))
	first, second := []byte(header), []byte("GET / HTTP/1.0\r\n\r\n")
	r.roundTrip(first, second)
	if n := allocations.PerRun(200, func() { r.roundTrip(first, second) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Checks of a backend come from the source addresses, too, from the next one if a port is missing.
func TestChecksComeFromSourceAddresses(t *testing.T) {
	f := fromOwn(plainForward(serverA))
	f.Mark = 7
	for _, tt := range []struct {
		to   forward.Endpoint
		want []Origin
	}{
		{serverA, []Origin{{Address: ownA, Mark: 7}, {Address: ownB, Mark: 7}}},
		{serverA6, []Origin{{Address: own6A, Mark: 7}, {Address: own6B, Mark: 7}}},
		{serverUnix, []Origin{{}}},
	} {
		if got := origins(tt.to, f); !slices.Equal(got, tt.want) {
			t.Errorf("origins of %v: %v, want %v", tt.to, got, tt.want)
		}
	}
	f.SourceAddresses = nil
	if got := origins(serverA, f); !slices.Equal(got, []Origin{{Mark: 7}}) {
		t.Errorf("origins without source addresses: %v", got)
	}
}
