package engine

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/gateway/source"
	"unproxy/transparent"
	"unproxy/transparent/toa"
)

// carrying makes a forward send clients' addresses in a TCP option.
func carrying(f *forward.Forward) *forward.Forward {
	f.Transparent, f.TOA.On = true, true
	return f
}

// newTOARig is a rig on a host with programs, whose backends have these plans.
func newTOARig(t *testing.T, f *forward.Forward, plans ...plan) *rig {
	t.Helper()
	r := newForwardRig(t, f)
	r.programs = true
	for i, p := range plans {
		r.plans[f.Listeners[0].Backends[i].Endpoint] = []plan{p}
	}
	return r
}

var (
	promising   = plan{waits: 1, promises: true}
	unpromising = plan{waits: 1}
)

// The backend gets the payload after the promise, from a socket of the gateway's own.
func TestTOA(t *testing.T) {
	for _, row := range []struct {
		name   string
		plan   plan
		client netip.AddrPort
	}{
		{"later", promising, client4},
		{"at once, as on loopback", plan{promises: true}, client4},
		{"epoll is faster than the program", plan{waits: 1, promises: true, late: 1}, client4},
		{"IPv6", promising, client6},
	} {
		for _, payload := range []string{"", "HELO there\r\n"} {
			to, dest := serverA, dest4
			if row.client.Addr().Is6() {
				to, dest = serverA6, dest6
			}
			r := newTOARig(t, carrying(plainForward(to)), row.plan)
			r.onDial = func(f *file) {
				if !f.hasClient || f.client != (toa.Record{Client: row.client}) || f.source.IsValid() {
					t.Errorf("%s: connects from %v with %+v", row.name, f.source, f.client)
				}
			}
			from := r.open(v2(row.client, dest) + payload)
			if got := string(r.backend().received); got != payload {
				t.Errorf("%s: the backend got %q, want %q", row.name, got, payload)
			}
			finishBoth(r, from)
			c := r.expectEnd(1, record.OK, record.Relay, record.Client)
			if !c.Transparent || !c.TOA || c.Source.IsValid() {
				t.Errorf("%s: transparent %v, toa %v, source %v", row.name, c.Transparent, c.TOA, c.Source)
			}
			r.expectClean()
		}
	}
}

// Without a promise nothing is sent: the connection is reset, and the next backend is tried.
func TestTOAFailover(t *testing.T) {
	for _, late := range []int{0, 1} {
		f := carrying(plainForward(serverA, serverB))
		f.BackendRetry = 10 * time.Second
		r := newTOARig(t, f, unpromising, plan{waits: 1, promises: true, late: late})
		from := r.open(header + "payload")
		if a := r.dials[0].far; len(a.received) != 0 || !a.gotRST {
			t.Errorf("the first backend got %q, reset %v", a.received, a.gotRST)
		}
		if got := string(r.backend().received); got != "payload" || r.dials[1].to != serverB {
			t.Errorf("%v got %q", r.dials[1].to, got)
		}
		finishBoth(r, from)
		r.expectEnd(1, record.OK, record.Relay, record.Client)

		from = r.open(header) // the first is tried last now
		if len(r.dials) != 3 || r.dials[2].to != serverB {
			t.Errorf("the next connection went to %v", r.dials[2].to)
		}
		finishBothOf(r, from, 2)
		r.expectClean()
	}
}

func TestTOAOutcomes(t *testing.T) {
	denied := v2(netip.MustParseAddrPort("127.0.0.1:4711"), dest4)
	for _, row := range []struct {
		name    string
		header  string
		change  func(*rig)
		plan    plan
		outcome record.Outcome
		by      record.Party
		reason  string
		dials   int
	}{
		{"no program here", header, func(r *rig) { r.programs = false }, promising, record.TOAUnattached, record.Gateway,
			"protocol not available", 0},
		{"detached meanwhile", header, func(r *rig) { r.onDial = func(*file) { r.programs = false } }, promising,
			record.TOAUnattached, record.Gateway, "ask for the promise", 1},
		{"no program there", header, nil, unpromising, record.TOAUnpromised, record.Gateway, "no promise", 1},
		{"refused", header, nil, refused, record.BackendRefused, record.Backend, "connection refused", 1},
		{"silent: no return path is looked for", header, nil, silent, record.ConnectTimeout, record.Timeout, "timed out", 1},
		{"denied client", denied, nil, promising, record.SourceDenied, record.Gateway, "loopback", 0},
		{"other family", v2(client6, dest6), nil, promising, record.FamilyMismatch, record.Gateway, "family", 0},
		{"the source is not this host's", header, func(r *rig) {
			r.loop().sources[0] = source.NewPool([]netip.Prefix{netip.MustParsePrefix("192.0.2.80/32")}, 0)
			r.bindError = func(netip.AddrPort) unix.Errno { return unix.EADDRNOTAVAIL }
		}, promising, record.BackendUnreachable, record.Gateway, "--toa-source", 0},
		{"no port left", header, nil, plan{errno: unix.EADDRNOTAVAIL}, record.Limit, record.Gateway, "no source port", 1},
	} {
		r := newTOARig(t, carrying(plainForward(serverA)), row.plan)
		if row.change != nil {
			row.change(r)
		}
		from := r.open(row.header + "payload")
		r.advance(7 * time.Second)
		c := r.expectEnd(1, row.outcome, record.Dial, row.by)
		if !strings.Contains(c.Reason, row.reason) || len(r.dials) != row.dials || !from.gotRST {
			t.Errorf("%s: reason %q, %d connects, reset %v", row.name, c.Reason, len(r.dials), from.gotRST)
		}
		for _, d := range r.dials {
			if len(d.far.received) != 0 {
				t.Errorf("%s: the backend got %q", row.name, d.far.received)
			}
		}
		r.expectClean()
	}
}

// A client of the other family is refused, carried as it is, replaced, or left out.
func TestTOAFamilies(t *testing.T) {
	for _, row := range []struct {
		mismatch transparent.FamilyMismatch
		want     netip.AddrPort // invalid: none
	}{
		{transparent.Carry, client6},
		{transparent.Map, netip.AddrPortFrom((&transparent.Policy{}).StandIn(client6.Addr()), client6.Port())},
		{transparent.Plain, netip.AddrPort{}},
	} {
		f := carrying(plainForward(serverA))
		f.Source.FamilyMismatch = row.mismatch
		r := newTOARig(t, f, promising)
		from := r.open(v2(client6, dest6) + "payload")
		b := r.backend()
		if b.client.Client != row.want || b.hasClient != row.want.IsValid() || string(b.received) != "payload" {
			t.Errorf("%v: the backend got %v and %q", row.mismatch, b.client.Client, b.received)
		}
		finishBoth(r, from)
		c := r.expectEnd(1, record.OK, record.Relay, record.Client)
		if c.Transparent != row.want.IsValid() || c.TOA != row.want.IsValid() {
			t.Errorf("%v: transparent %v, toa %v", row.mismatch, c.Transparent, c.TOA)
		}
		r.expectClean()
	}
}

// Connections that name no client carry none.
func TestTOAOfLocal(t *testing.T) {
	r := newTOARig(t, carrying(plainForward(serverA)), unpromising)
	from := r.open(v2(netip.AddrPort{}, netip.AddrPort{}) + "check")
	if b := r.backend(); b.hasClient || string(b.received) != "check" {
		t.Errorf("client %v, %q", b.client, b.received)
	}
	finishBoth(r, from)
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	r.expectClean()
}

// The legacy format awaits no promise.
func TestTOALegacy(t *testing.T) {
	f := carrying(plainForward(serverA))
	f.TOA.Format = toa.Legacy
	r := newTOARig(t, f, unpromising)
	from := r.open(header + "payload")
	b := r.backend()
	if b.client != (toa.Record{Client: client4, Format: toa.Legacy}) || string(b.received) != "payload" {
		t.Errorf("%+v, %q", b.client, b.received)
	}
	for _, o := range b.options {
		if o[0] == unix.IPPROTO_TCP && (o[1] == unix.TCP_QUICKACK || o[1] == unix.TCP_USER_TIMEOUT) {
			t.Errorf("option %v", o)
		}
	}
	finishBoth(r, from)
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	r.expectClean()
}

// userTimeouts returns the values of TCP_USER_TIMEOUT in order.
func (f *file) userTimeouts() (all []int) {
	for _, o := range f.options {
		if o[0] == unix.IPPROTO_TCP && o[1] == unix.TCP_USER_TIMEOUT {
			all = append(all, o[2])
		}
	}
	return all
}

// TCP_USER_TIMEOUT is short until the backend has acknowledged a byte or sent one, and no longer.
func TestTOAUserTimeout(t *testing.T) {
	for _, row := range []struct {
		name    string
		own     time.Duration
		payload string
		then    func(*file)
		want    []int
	}{
		{"not acknowledged", 0, "payload", func(*file) {}, []int{3000}},
		{"nothing sent: nothing can be", 0, "", func(*file) {}, []int{3000}},
		{"acknowledged", 0, "payload", func(f *file) { f.acknowledged = true }, []int{3000, 0}},
		{"the backend speaks first", 0, "", func(f *file) { f.deliver([]byte("220 hello")) }, []int{3000, 0}},
		{"a longer one of the forward", 20 * time.Second, "payload", func(f *file) { f.acknowledged = true },
			[]int{20000, 3000, 20000}},
		{"a shorter one of the forward", 2 * time.Second, "payload", func(f *file) { f.acknowledged = true },
			[]int{2000, 2000}},
	} {
		f := carrying(plainForward(serverA))
		f.UserTimeout = row.own
		r := newTOARig(t, f, promising)
		from := r.open(header + row.payload)
		row.then(r.backend())
		r.settle()
		r.advance(5 * time.Second)
		if got := r.backend().userTimeouts(); !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
		finishBoth(r, from)
		r.expectClean()
	}
}

// A timeout before the backend has acknowledged anything has its own outcome.
func TestTOAUnread(t *testing.T) {
	for _, row := range []struct {
		name    string
		then    func(*file)
		errno   unix.Errno
		outcome record.Outcome
	}{
		{"unread", func(*file) {}, unix.ETIMEDOUT, record.TOAUnread},
		{"acknowledged", func(f *file) { f.acknowledged = true }, unix.ETIMEDOUT, record.Reset},
		{"answered", func(f *file) { f.deliver([]byte("hello")) }, unix.ETIMEDOUT, record.Reset},
		{"reset", func(*file) {}, unix.ECONNRESET, record.Reset},
	} {
		r := newTOARig(t, carrying(plainForward(serverA)), promising)
		r.open(header + "payload")
		row.then(r.backend())
		r.settle()
		r.backend().reset()
		r.backend().err = row.errno
		r.settle()
		if c := r.lastRecord(1); c.Outcome != row.outcome || c.Phase != record.Relay {
			t.Errorf("%s: %v in %v, want %v", row.name, c.Outcome, c.Phase, row.outcome)
		}
		r.expectClean()
	}
}

// The ACK of the SYN-ACK is withheld until the promise, and then sent unless payload is.
func TestTOAWithholdsACK(t *testing.T) {
	for payload, want := range map[string][]int{"": {0, 1}, "payload": {0}} {
		r := newTOARig(t, carrying(plainForward(serverA)), promising)
		from := r.open(header + payload)
		var got []int
		for _, o := range r.backend().options {
			if o[0] == unix.IPPROTO_TCP && o[1] == unix.TCP_QUICKACK {
				got = append(got, o[2])
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("payload %q: TCP_QUICKACK %v, want %v", payload, got, want)
		}
		finishBoth(r, from)
		r.expectClean()
	}
}

// Connections come from the addresses of the backend's family in turn; those without a client do not.
func TestTOASources(t *testing.T) {
	f := carrying(plainForward(serverA))
	for _, p := range []string{"192.0.2.81/32", "2001:db8::81/128", "192.0.2.82/32"} {
		f.SourceAddresses = append(f.SourceAddresses, netip.MustParsePrefix(p))
	}
	r := newTOARig(t, f, promising)
	for i := range 4 {
		finishBothOf(r, r.open(header), i)
	}
	finishBothOf(r, r.open(v2(netip.AddrPort{}, netip.AddrPort{})), 4)
	used := map[string]int{}
	for _, d := range r.dials {
		used[d.source.String()]++
	}
	if used["192.0.2.81:0"] != 2 || used["192.0.2.82:0"] != 2 || used["invalid AddrPort"] != 1 {
		t.Errorf("connected from %v", used)
	}
	r.expectClean()
}

// A check of a backend makes an offer, whose result it keeps.
func TestTOACheck(t *testing.T) {
	f := carrying(plainForward(serverA))
	f.BackendCheck = time.Second
	f.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.81/32")}
	r := newTOARig(t, f, promising)
	c := &r.engine.checks
	b := r.engine.forwards[0].backends
	for _, want := range []error{errUnpromised, nil, unix.ENOPROTOOPT} {
		c.connect = func(_ context.Context, e forward.Endpoint, from Origin) error {
			if e != serverA || from.TOA != f.TOA || from.Address.String() != "192.0.2.81" {
				t.Errorf("%v was tested from %+v", e, from)
			}
			return want
		}
		c.check(t.Context(), b, serverA)
		if state := b.list()[0]; state.Up != (want == nil) || want != nil && state.LastError != want.Error() {
			t.Errorf("after %v: %+v", want, state)
		}
	}
}
