package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// dialOrder returns the dialled backends in order.
func (r *rig) dialOrder() []forward.Endpoint {
	var all []forward.Endpoint
	for _, d := range r.dials {
		all = append(all, d.to)
	}
	return all
}

var (
	refused     = plan{waits: 1, result: unix.ECONNREFUSED}
	unreachable = plan{errno: unix.ENETUNREACH}
	silent      = plan{waits: -1}
)

// The backends are tried in the operator's order, those of the client's family first. In
// transparent mode the policy decides whether the others are tried.
func TestBackendOrder(t *testing.T) {
	mixed := []forward.Endpoint{serverA6, serverUnix, serverA, serverB6, serverB}
	rows := []struct {
		name        string
		transparent bool
		mismatch    transparent.FamilyMismatch
		client      netip.AddrPort
		want        []forward.Endpoint
	}{
		{"plain, IPv4", false, 0, client4, []forward.Endpoint{serverUnix, serverA, serverB, serverA6, serverB6}},
		{"plain, IPv6", false, 0, client6, []forward.Endpoint{serverA6, serverUnix, serverB6, serverA, serverB}},
		{"transparent, IPv4", true, transparent.Reject, client4, []forward.Endpoint{serverA, serverB}},
		{"transparent, IPv6", true, transparent.Reject, client6, []forward.Endpoint{serverA6, serverB6}},
		{"transparent, IPv4, else plain", true, transparent.Plain, client4,
			[]forward.Endpoint{serverA, serverB, serverA6, serverUnix, serverB6}},
		{"transparent, IPv6, else a stand-in", true, transparent.Map, client6,
			[]forward.Endpoint{serverA6, serverB6, serverA, serverB}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := plainForward(mixed...)
			f.Transparent, f.Source.FamilyMismatch = row.transparent, row.mismatch
			r := newForwardRig(t, f)
			for _, e := range mixed {
				r.plans[e] = []plan{refused}
			}
			r.plans[serverUnix] = []plan{{errno: unix.ECONNREFUSED}}
			dest := dest4
			if row.client.Addr().Is6() {
				dest = dest6
			}
			r.open(v2(row.client, dest))
			if got := r.dialOrder(); !slices.Equal(got, row.want) {
				t.Errorf("dialled %v, want %v", got, row.want)
			}
			for _, d := range r.dials {
				sameFamily := family(d.to) == unix.AF_INET && row.client.Addr().Is4()
				want := row.transparent && (row.mismatch != transparent.Plain || sameFamily)
				if d.source.IsValid() != want {
					t.Errorf("%v was dialled from %v", d.to, d.source)
				}
			}
			r.expectClean()
		})
	}
}

// A failed attempt leaves no trace when the next one succeeds. The payload reaches the backend that
// accepts, even if an earlier one took a part of it.
func TestFailover(t *testing.T) {
	for _, first := range []plan{refused, unreachable, silent, {result: unix.ECONNREFUSED},
		{waits: 1, result: unix.EHOSTUNREACH}} {
		for _, payload := range []string{"", "HELO there\r\n"} {
			r := newForwardRig(t, plainForward(serverA, serverB, serverC))
			r.plans[serverA], r.plans[serverB] = []plan{first}, []plan{{waits: 2, result: unix.ECONNREFUSED}}
			from := r.open(header + payload)
			r.advance(3 * time.Second)
			finishBoth(r, from)
			c := r.expectEnd(1, record.OK, record.Relay, record.Client)
			if got := string(r.backend().received); got != payload || c.Backend != serverC.Addr ||
				c.Reason != "" || c.BytesIn != int64(len(payload)) {
				t.Errorf("%+v: payload %q at %v (%s), %d bytes", first, got, c.Backend, c.Reason, c.BytesIn)
			}
			r.expectClean()
		}
	}
}

// The errors of connect(2), socket(2) and bind(2), and their outcomes.
func TestDialErrors(t *testing.T) {
	rows := []struct {
		plan    plan
		outcome record.Outcome
		by      record.Party
	}{
		{plan{waits: 1, result: unix.ECONNREFUSED}, record.BackendRefused, record.Backend},
		{plan{errno: unix.ECONNREFUSED}, record.BackendRefused, record.Backend},
		{plan{result: unix.ECONNRESET}, record.BackendRefused, record.Backend},
		{plan{waits: 1, result: unix.EHOSTUNREACH}, record.BackendUnreachable, record.Gateway},
		{plan{errno: unix.ENETUNREACH}, record.BackendUnreachable, record.Gateway},
		{plan{errno: unix.EADDRNOTAVAIL}, record.Limit, record.Gateway}, // no ephemeral port is left
		{plan{errno: unix.EADDRINUSE}, record.Limit, record.Gateway},
		{plan{waits: 1, result: unix.ETIMEDOUT}, record.ConnectTimeout, record.Timeout},
		{plan{waits: -1}, record.ConnectTimeout, record.Timeout},
		{plan{errno: unix.EACCES}, record.Permission, record.Gateway}, // a prohibit route
		{plan{errno: unix.EPERM}, record.Permission, record.Gateway},  // netfilter
		{plan{errno: unix.ENOBUFS}, record.Limit, record.Gateway},
	}
	for _, row := range rows {
		r := newForwardRig(t, plainForward(serverA))
		r.plans[serverA] = []plan{row.plan}
		from := r.open(header + "payload")
		r.advance(7 * time.Second)
		r.expectEnd(1, row.outcome, record.Dial, row.by)
		if !from.gotRST {
			t.Error("the client got no RST")
		}
		r.expectClean()
	}
}

// Without a descriptor for the backend, a dial is retried until the connect timeout. Meanwhile
// nothing is accepted, which would take more descriptors.
func TestNoDescriptorForBackend(t *testing.T) {
	for _, late := range []time.Duration{time.Second, 7 * time.Second} {
		r := newForwardRig(t, plainForward(serverA))
		r.limit = r.used + 1
		from := r.open(header + "payload")
		second := r.open(header)
		r.advance(late)
		if late < 6*time.Second && len(r.listenerSocket(0).list) != 1 {
			t.Error("a connection was accepted during the shortage")
		}
		r.limit = 0
		r.advance(time.Second)
		if late > 6*time.Second { // the first session ended to free a descriptor for the second, too late
			r.expectEnd(2, record.Limit, record.Dial, record.Gateway)
			continue
		}
		if len(r.dials) != 2 || string(r.dials[0].far.received) != "payload" || second.unread() != 0 {
			t.Fatalf("%d dials, %d bytes unread", len(r.dials), second.unread())
		}
		finishBothOf(r, from, 0)
		r.expectEnd(1, record.OK, record.Relay, record.Client)
		finishBothOf(r, second, 1)
		r.expectClean()
	}
}

// Sessions that hold all descriptors while each needs one more do not block each other forever: one
// after the other ends, with and without a connect timeout.
func TestSessionsWaitingForDescriptors(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Minute} {
		f := plainForward(serverA)
		f.ConnectTimeout = timeout
		r := newForwardRig(t, f)
		r.limit = r.used + 3
		for range 3 {
			f := r.arrive(r.listenerSocket(0), lb)
			f.deliver([]byte(header))
			f.sendFIN()
		}
		r.settle()
		r.advance(2500 * time.Millisecond)
		if len(r.records) != 1 || r.records[0].Outcome != record.Limit || len(r.dials) != 1 {
			t.Fatalf("connect timeout %v: %d connections have ended, %d backends were dialled", timeout,
				len(r.records), len(r.dials))
		}
		r.dials[0].far.sendFIN()
		r.advance(time.Second)
		if len(r.records) != 2 || r.records[1].Outcome != record.OK || len(r.dials) != 2 {
			t.Fatalf("connect timeout %v: %d connections have ended, %d backends were dialled", timeout,
				len(r.records), len(r.dials))
		}
	}
}

func TestBackendSocketOptions(t *testing.T) {
	f := plainForward(serverA)
	f.Mark, f.Keepalive, f.UserTimeout = 7, 15*time.Second, 20*time.Second
	r := newForwardRig(t, f)
	want := [][3]int{
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 20000},
		{unix.SOL_SOCKET, unix.SO_MARK, 7},
	}
	check := func(when string) {
		t.Helper()
		if got := r.backend().options; !slices.Equal(got, want) {
			t.Errorf("%s: options %v, want %v", when, got, want)
		}
	}
	front := r.open(header + "one")
	check("after the first write")
	front.deliver([]byte("two"))
	r.settle()
	want = append(want, [3]int{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1})
	check("after the second write")
	front.deliver([]byte("three"))
	r.advance(14 * time.Second)
	check("before the keepalive time")
	r.advance(1100 * time.Millisecond)
	want = append(want, [3]int{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		[3]int{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, [3]int{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15})
	check("at the keepalive time")
	r.advance(time.Minute)
	check("later")
	if r.loop().wheel.count != 0 {
		t.Error("a timer is armed without a deadline")
	}
}

func TestIdleTimeoutWithKeepalive(t *testing.T) {
	for _, idle := range []time.Duration{5 * time.Second, 40 * time.Second} {
		f := plainForward(serverA)
		f.Keepalive, f.IdleTimeout = 15*time.Second, idle
		r := newForwardRig(t, f)
		r.open(header + "one")
		r.advance(idle - 100*time.Millisecond)
		if set := len(r.backend().options) > 1; set != (idle > f.Keepalive) {
			t.Errorf("idle timeout %v: keepalive options set: %v", idle, set)
		}
		if len(r.records) != 0 {
			t.Fatalf("idle timeout %v: ended too early", idle)
		}
		r.advance(200 * time.Millisecond)
		r.expectEnd(1, record.IdleTimeout, record.Relay, record.Timeout)
		r.expectClean()
	}
}

func TestMarkNotPermitted(t *testing.T) {
	f := plainForward(serverA)
	f.Mark = 7
	r := newForwardRig(t, f)
	r.optionError = func(_, name int) unix.Errno {
		if name == unix.SO_MARK {
			return unix.EPERM
		}
		return 0
	}
	r.open(header)
	r.expectEnd(1, record.Permission, record.Dial, record.Gateway)
	r.expectClean()
}

// The connect timeout is for all backends together. Each attempt gets an equal share of what is
// left.
func TestConnectTimeoutIsShared(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA, serverB, serverC))
	for _, e := range []forward.Endpoint{serverA, serverB, serverC} {
		r.plans[e] = []plan{silent}
	}
	r.open(header)
	start := r.clock
	for want := 1; want <= 3; want++ {
		if len(r.dials) != want {
			t.Fatalf("after %v: %d backends dialled, want %d", time.Duration(r.clock-start), len(r.dials), want)
		}
		r.advance(1900 * time.Millisecond)
		if len(r.dials) != want {
			t.Fatalf("after %v: gave up on backend %d", time.Duration(r.clock-start), want)
		}
		r.advance(120 * time.Millisecond)
	}
	c := r.expectEnd(1, record.ConnectTimeout, record.Dial, record.Timeout)
	if c.Duration < 6*time.Second || c.Duration > 6*time.Second+100*time.Millisecond {
		t.Errorf("after %v, want 6s", c.Duration)
	}
	r.expectClean()
}

func TestBackendFromHeader(t *testing.T) {
	f := plainForward(serverB)
	f.Listeners[0].Backends = []forward.Backend{{FromHeader: true}}
	f.AllowDestination = only(serverA.Addr)
	r := newForwardRig(t, f)
	r.open(v2(client4, serverA.Addr))
	if got := r.dialOrder(); !slices.Equal(got, []forward.Endpoint{serverA}) {
		t.Errorf("dialled %v", got)
	}
}

// The source port and the outcome when the client's port is not available: bind(2) fails for a port
// that is in use or below 1024, connect(2) if the same 4-tuple is connected already.
func TestSourcePort(t *testing.T) {
	rows := []struct {
		choice        transparent.SourcePort
		bind, connect unix.Errno
		outcome       record.Outcome // OK: it is relayed
		port          uint16
		fallbacks     uint64
	}{
		{transparent.Prefer, 0, 0, record.OK, 4711, 0},
		{transparent.Keep, 0, 0, record.OK, 4711, 0},
		{transparent.Any, 0, 0, record.OK, ephemeralPort, 0},
		{transparent.Prefer, unix.EADDRINUSE, 0, record.OK, ephemeralPort, 1},
		{transparent.Prefer, unix.EACCES, 0, record.OK, ephemeralPort, 1},
		{transparent.Prefer, 0, unix.EADDRNOTAVAIL, record.OK, ephemeralPort, 1},
		{transparent.Keep, unix.EADDRINUSE, 0, record.SourcePortBusy, 4711, 0},
		{transparent.Keep, 0, unix.EADDRNOTAVAIL, record.SourcePortBusy, 4711, 0},
		{transparent.Keep, unix.EACCES, 0, record.Permission, 4711, 0},
		{transparent.Prefer, unix.EADDRNOTAVAIL, 0, record.SourcePortBusy, 4711, 0},
		{transparent.Prefer, unix.EPERM, 0, record.Permission, 4711, 0},
	}
	for i, row := range rows {
		t.Run(fmt.Sprint(i, row.choice), func(t *testing.T) {
			f := transparently(plainForward(serverA))
			f.Source.SourcePort = row.choice
			r := newForwardRig(t, f)
			r.bindError = func(a netip.AddrPort) unix.Errno {
				if a.Port() == 0 {
					return 0
				}
				return row.bind
			}
			r.plans[serverA] = []plan{{errno: row.connect}, {}}
			from := r.open(header + "hello")
			if row.outcome == record.OK {
				finishBoth(r, from)
			}
			c := r.lastRecord(1)
			source := netip.AddrPortFrom(client4.Addr(), row.port)
			if source == client4 {
				source = netip.AddrPort{} // same as Client
			}
			if c.Outcome != row.outcome || c.Source != source || !c.Transparent ||
				r.tally().PortFallbacks != row.fallbacks {
				t.Errorf("%v from %v (%s), %d fallbacks; want %v from %v", c.Outcome, c.Source, c.Reason,
					r.tally().PortFallbacks, row.outcome, source)
			}
			r.expectClean()
		})
	}
}

// connect(2) may fail from the client's port and from any other.
func TestSourcePortsAreExhausted(t *testing.T) {
	r := newForwardRig(t, transparently(plainForward(serverA)))
	r.plans[serverA] = []plan{{errno: unix.EADDRNOTAVAIL}}
	r.open(header)
	c := r.expectEnd(1, record.Limit, record.Dial, record.Gateway)
	if len(r.dials) != 2 || !strings.Contains(c.Reason, "no source port is left") {
		t.Errorf("%d attempts, want 2; %q", len(r.dials), c.Reason)
	}
	r.expectClean()
}

// Without a source port towards one backend, the next one is tried at once, and accepting continues.
// If there is none, it is a limit and says so; on IPv6 only if the host has an address at all.
func TestNoSourcePortIsALimit(t *testing.T) {
	full := []plan{{errno: unix.EADDRNOTAVAIL}}
	for _, row := range []struct {
		name     string
		backends []forward.Endpoint
		setting  func(*forward.Forward)
		spoil    func(*script)
		outcome  record.Outcome
		by       record.Party
		reason   string
	}{
		{"IPv4", []forward.Endpoint{serverA}, nil, nil, record.Limit, record.Gateway, "no source port is left"},
		{"IPv6", []forward.Endpoint{serverA6}, nil, nil, record.Limit, record.Gateway, "no source port is left"},
		{"IPv6, no address", []forward.Endpoint{serverA6}, nil, func(k *script) { k.noSource = true },
			record.BackendUnreachable, record.Gateway, "cannot assign requested address"},
		{"transparent, any port", []forward.Endpoint{serverA}, func(f *forward.Forward) {
			f.Transparent, f.Source.SourcePort = true, transparent.Any
		}, nil, record.Limit, record.Gateway, "no source port is left"},
		{"unix, the queue is full", []forward.Endpoint{serverUnix}, nil, func(k *script) {
			k.plans[serverUnix] = []plan{{errno: unix.EAGAIN}}
		}, record.Limit, record.Backend, "queue of connections is full"},
		{"the next backend", []forward.Endpoint{serverA, serverB}, nil, nil, record.OK, record.Client, ""},
		{"two are full, the next one", []forward.Endpoint{serverA, serverA6, serverB}, nil, nil,
			record.OK, record.Client, ""},
		{"the next backend, after a unix socket", []forward.Endpoint{serverUnix, serverB}, nil, func(k *script) {
			k.plans[serverUnix] = []plan{{errno: unix.EAGAIN}}
		}, record.OK, record.Client, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := plainForward(row.backends...)
			if row.setting != nil {
				row.setting(f)
			}
			r := newForwardRig(t, f)
			r.plans[serverA], r.plans[serverA6] = full, full
			if row.spoil != nil {
				row.spoil(r.script)
			}
			from := r.open(header + "payload")
			if row.outcome == record.OK {
				if got := string(r.backend().received); got != "payload" {
					t.Errorf("the next backend received %q", got)
				}
				finishBoth(r, from)
			}
			phase := record.Dial
			if row.outcome == record.OK {
				phase = record.Relay
			}
			c := r.expectEnd(1, row.outcome, phase, row.by)
			if !strings.Contains(c.Reason, row.reason) || len(r.notices) != 0 {
				t.Errorf("reason %q, notices %v", c.Reason, r.notices)
			}
			r.expectClean()
		})
	}
}

// A backend's socket is registered before the connect completes. If that fails, the attempt fails
// for lack of memory.
func TestSocketWatchFails(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.watchErrors = []unix.Errno{unix.ENOMEM}
	r.open(header)
	r.expectEnd(1, record.Internal, record.Accept, record.Gateway)
	r.watchErrors = []unix.Errno{0, unix.ENOSPC}
	from := r.open(header + "payload")
	r.advance(time.Second)
	finishBoth(r, from)
	r.expectEnd(2, record.OK, record.Relay, record.Client)
	if got := string(r.backend().received); len(r.dials) != 2 || got != "payload" {
		t.Errorf("%d dials, payload %q", len(r.dials), got)
	}
	r.expectClean()
}
