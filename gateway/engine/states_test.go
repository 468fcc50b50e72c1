package engine

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// outcomeCase is one way for a connection to end: the settings of the forward, what the load
// balancer does, and the expected record.
type outcomeCase struct {
	name    string
	setting func(*forward.Forward)
	sends   string
	then    func(r *rig, lb *file)
	outcome record.Outcome
	phase   record.Phase
	by      record.Party
	reason  string
	client  netip.AddrPort
	reset   bool // the load balancer gets a RST instead of a FIN
}

func sendFIN(r *rig, f *file) { f.sendFIN(); r.settle() }
func sendRST(r *rig, f *file) { f.reset(); r.settle() }

func after(d time.Duration) func(*rig, *file) { return func(r *rig, _ *file) { r.advance(d) } }

// finishBoth ends a connection normally: the client sends its FIN, then the backend.
func finishBoth(r *rig, f *file) {
	f.sendFIN()
	r.settle()
	r.backend().sendFIN()
	r.settle()
}

func badChecksum() string {
	h, err := proxyproto.AppendV2(nil, &proxyproto.Message{Command: proxyproto.CommandProxy,
		Source: client4, Destination: dest4, Checksum: true})
	if err != nil {
		panic(err)
	}
	binary.BigEndian.PutUint32(h[len(h)-4:], ^binary.BigEndian.Uint32(h[len(h)-4:]))
	return string(h)
}

func setTransparent(f *forward.Forward) { f.Transparent = true }
func closeLocal(f *forward.Forward)     { f.CloseLocal = true }

// local is a version 2 header with the command LOCAL.
var local = v2(netip.AddrPort{}, netip.AddrPort{})

// The rows follow the table in docs/outcomes.md.
var outcomes = []outcomeCase{
	{name: "ok", sends: header, then: finishBoth,
		outcome: record.OK, phase: record.Relay, by: record.Client, client: client4},
	{name: "ok, the backend first", sends: header, then: func(r *rig, f *file) {
		r.backend().sendFIN()
		r.settle()
		f.sendFIN()
		r.settle()
	}, outcome: record.OK, phase: record.Relay, by: record.Backend, client: client4},
	{name: "ok, an untrusted peer is passed",
		setting: func(f *forward.Forward) { f.Trust, f.PassUntrusted = prefixes{}, true }, then: finishBoth,
		outcome: record.OK, phase: record.Relay, by: record.Client, client: lb},
	{name: "ok, LOCAL is relayed", setting: setTransparent, sends: local, then: finishBoth,
		outcome: record.OK, phase: record.Relay, by: record.Client, client: lb},
	{name: "ok, LOCAL is closed", setting: closeLocal, sends: local + "PING", then: sendFIN,
		outcome: record.OK, phase: record.Header, by: record.Gateway},
	{name: "ok, LOCAL is closed, the peer stays open", setting: closeLocal, sends: local, then: after(6 * time.Second),
		outcome: record.OK, phase: record.Header, by: record.Gateway},
	{name: "ok, UNKNOWN is relayed", sends: "PROXY UNKNOWN\r\n", then: finishBoth,
		outcome: record.OK, phase: record.Relay, by: record.Client, client: lb},
	{name: "empty, FIN", then: sendFIN,
		outcome: record.Empty, phase: record.Header, by: record.Peer},
	{name: "empty, RST", then: sendRST,
		outcome: record.Empty, phase: record.Header, by: record.Peer, reason: "connection reset by peer", reset: true},
	{name: "empty, a health checker", setting: func(f *forward.Forward) { f.Health = only(lb) },
		sends: "GET / HTTP/1.0\r\n\r\n", then: sendFIN,
		outcome: record.Empty, phase: record.Trust, by: record.Gateway},
	{name: "untrusted", setting: func(f *forward.Forward) { f.Trust = prefixes{} }, sends: header,
		outcome: record.Untrusted, phase: record.Trust, by: record.Gateway, reset: true},
	{name: "not_proxy", sends: "GET / HTTP/1.1\r\n\r\n",
		outcome: record.NotProxy, phase: record.Header, by: record.Peer, reason: "no PROXY signature", reset: true},
	{name: "malformed", sends: "PROXY TCP4 1.2.3.4 1.2.3.4 1 x\r\n",
		outcome: record.Malformed, phase: record.Header, by: record.Peer, reason: "port", reset: true},
	{name: "too_long", setting: func(f *forward.Forward) { f.Header.MaxLength = 64 },
		sends:   v2(client4, dest4, proxyproto.TLV{Type: 0xe0, Value: make([]byte, 100)}),
		outcome: record.TooLong, phase: record.Header, by: record.Peer,
		reason: "header longer than allowed", reset: true},
	{name: "unsupported", setting: func(f *forward.Forward) { f.Header.RefuseV1 = true }, sends: header,
		outcome: record.Unsupported, phase: record.Header, by: record.Peer, reason: "v1 not accepted", reset: true},
	{name: "bad_checksum", sends: badChecksum(),
		outcome: record.BadChecksum, phase: record.Header, by: record.Peer, reason: "CRC32C mismatch", reset: true},
	{name: "truncated", sends: header[:20], then: sendFIN,
		outcome: record.Truncated, phase: record.Header, by: record.Peer, reset: true},
	{name: "truncated, in the second header", setting: func(f *forward.Forward) { f.Headers = 2 },
		sends: header, then: sendFIN,
		outcome: record.Truncated, phase: record.Header, by: record.Peer, reset: true},
	{name: "reset, in the header", sends: header[:20], then: sendRST,
		outcome: record.Reset, phase: record.Header, by: record.Peer, reason: "connection reset by peer", reset: true},
	{name: "header_timeout", sends: header[:20], then: after(6 * time.Second),
		outcome: record.HeaderTimeout, phase: record.Header, by: record.Timeout, reset: true},
	{name: "source_denied", setting: setTransparent, sends: "PROXY TCP4 127.0.0.1 192.0.2.80 4711 80\r\n",
		outcome: record.SourceDenied, phase: record.Dial, by: record.Gateway, reason: "loopback",
		client: netip.MustParseAddrPort("127.0.0.1:4711"), reset: true},
	{name: "family_mismatch", setting: setTransparent, sends: v2(client6, dest6),
		outcome: record.FamilyMismatch, phase: record.Dial, by: record.Gateway,
		reason: "no backend has the client's address family", client: client6, reset: true},
	{name: "destination_denied", setting: func(f *forward.Forward) {
		f.Listeners[0].Backends, f.AllowDestination = []forward.Backend{{FromHeader: true}}, prefixes{}
	}, sends: header,
		outcome: record.DestinationDenied, phase: record.Dial, by: record.Gateway,
		reason: "destination not allowed", client: client4, reset: true},
	{name: "no_address, UNKNOWN is rejected", setting: func(f *forward.Forward) { f.RejectUnknown = true },
		sends:   "PROXY UNKNOWN\r\n",
		outcome: record.NoAddress, phase: record.Dial, by: record.Gateway, reset: true},
	{name: "no_address, LOCAL has no destination", setting: func(f *forward.Forward) {
		f.Listeners[0].Backends, f.AllowDestination = []forward.Backend{{FromHeader: true}}, anyAddress
	}, sends: local,
		outcome: record.NoAddress, phase: record.Dial, by: record.Gateway,
		reason: "no destination address", client: lb, reset: true},
	{name: "reset, by the client", sends: header, then: sendRST,
		outcome: record.Reset, phase: record.Relay, by: record.Client,
		reason: "connection reset by peer", client: client4, reset: true},
	{name: "reset, by the backend", sends: header, then: func(r *rig, _ *file) { sendRST(r, r.backend()) },
		outcome: record.Reset, phase: record.Relay, by: record.Backend,
		reason: "connection reset by peer", client: client4, reset: true},
	{name: "reset, the backend is gone", sends: header, then: func(r *rig, _ *file) {
		r.backend().reset()
		r.backend().err = unix.ETIMEDOUT // keepalive gave up (tcp_write_err)
		r.settle()
	}, outcome: record.Reset, phase: record.Relay, by: record.Timeout,
		reason: "connection timed out", client: client4, reset: true},
	{name: "idle_timeout", setting: func(f *forward.Forward) { f.IdleTimeout = time.Minute },
		sends: header, then: after(62 * time.Second),
		outcome: record.IdleTimeout, phase: record.Relay, by: record.Timeout, client: client4, reset: true},
	{name: "drained, in the header", then: func(r *rig, _ *file) { r.engine.Cut(); r.settle() },
		outcome: record.Drained, phase: record.Header, by: record.Gateway, reset: true},
	{name: "drained", sends: header, then: func(r *rig, _ *file) { r.engine.Cut(); r.settle() },
		outcome: record.Drained, phase: record.Relay, by: record.Gateway, client: client4, reset: true},
}

func TestOutcomes(t *testing.T) {
	for _, row := range outcomes {
		t.Run(row.name, func(t *testing.T) {
			f := plainForward(serverA)
			if row.setting != nil {
				row.setting(f)
			}
			r := newForwardRig(t, f)
			from := r.open(row.sends)
			if row.then != nil {
				row.then(r, from)
			}
			row.check(t, r, from)
		})
	}
}

func (row *outcomeCase) check(t *testing.T, r *rig, from *file) {
	c := r.expectEnd(1, row.outcome, row.phase, row.by)
	if c.Reason != row.reason || c.Client != row.client || c.Peer != lb || c.Forward != "front" {
		t.Errorf("reason %q, client %v, peer %v, forward %q; want %q and client %v", c.Reason, c.Client,
			c.Peer, c.Forward, row.reason, row.client)
	}
	if !from.wasReset && (from.gotRST != row.reset || !from.gotRST && !from.gotFIN) {
		t.Errorf("the load balancer got a RST: %v, a FIN: %v; want a RST: %v", from.gotRST, from.gotFIN, row.reset)
	}
	wantSample := row.phase == record.Header && row.reset && row.sends != "" && !from.wasReset &&
		row.outcome != record.Drained &&
		!strings.Contains(row.name, "second")
	if got := len(c.Sample) > 0; got != wantSample || got && !strings.HasPrefix(row.sends, c.Sample) {
		t.Errorf("sample %q, want one: %v", c.Sample, wantSample)
	}
	r.expectClean()
}

// There is one deadline from accept to the last byte of the header. Single bytes do not postpone it
// (slowloris).
func TestHeaderDeadlineIsFixed(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	f := r.open("")
	for i := range header {
		f.deliver([]byte(header[i : i+1]))
		r.advance(300 * time.Millisecond)
	}
	c := r.expectEnd(1, record.HeaderTimeout, record.Header, record.Timeout)
	if c.Duration < 5*time.Second || c.Duration > 5*time.Second+300*time.Millisecond {
		t.Errorf("after %v, want 5s", c.Duration)
	}
	r.expectClean()
}

// The header deadline ends with the header, whatever the other timeouts are.
func TestHeaderDeadlineEndsWithHeader(t *testing.T) {
	for _, connect := range []time.Duration{0, time.Hour} {
		f := plainForward(serverA)
		f.ConnectTimeout = connect
		r := newForwardRig(t, f)
		r.plans[serverA] = []plan{{waits: -1}}
		from := r.open(header)
		r.advance(10 * time.Second)
		if len(r.records) != 0 {
			t.Fatalf("connect timeout %v: ended %v", connect, r.records[0].Outcome)
		}
		r.pending[0].plan.waits = 1
		r.settle()
		r.advance(10 * time.Second)
		finishBoth(r, from)
		r.expectEnd(1, record.OK, record.Relay, record.Client)
		r.expectClean()
	}
}

func TestNoHeaderDeadline(t *testing.T) {
	f := plainForward(serverA)
	f.HeaderTimeout = 0
	r := newForwardRig(t, f)
	from := r.open("PROXY")
	r.advance(time.Hour)
	from.deliver([]byte(header[5:]))
	r.settle()
	finishBoth(r, from)
	r.expectEnd(1, record.OK, record.Relay, record.Client)
}

// Exactly the configured number of headers is stripped. The last one names the client, and a
// further one is payload.
func TestStackedHeaders(t *testing.T) {
	inner := v2(client6, dest6)
	for _, headers := range []int{1, 2} {
		f := plainForward(serverA)
		f.Headers = headers
		r := newForwardRig(t, f)
		finishBoth(r, r.open(header+inner+header+"payload"))
		c := r.expectEnd(1, record.OK, record.Relay, record.Client)
		wantClient, want := client4, inner+header+"payload"
		if headers == 2 {
			wantClient, want = client6, header+"payload"
		}
		if got := string(r.backend().received); got != want || c.Client != wantClient || c.Version != uint8(headers) {
			t.Errorf("%d headers: client %v, version %d, payload %q, want %v and %q", headers, c.Client,
				c.Version, got, wantClient, want)
		}
	}
}

// Header and payload are separated at the same byte in every segmentation.
func TestHeaderInEverySegmentation(t *testing.T) {
	f := plainForward(serverA)
	f.Headers = 2
	r := newForwardRig(t, f)
	whole := v2(client6, dest6) + header + "payload"
	for first := range whole {
		for second := first + 1; second < len(whole); second += 7 {
			from := r.open(whole[:first])
			from.deliver([]byte(whole[first:second]))
			r.settle()
			from.deliver([]byte(whole[second:]))
			r.settle()
			finishBoth(r, from)
			if got := string(r.backend().received); got != "payload" {
				t.Fatalf("cut at %d and %d: payload %q", first, second, got)
			}
		}
	}
	r.expectClean()
}

// A health check is closed with a FIN. Then all of its bytes are read, because unread bytes would
// cause a RST.
func TestHealthCheckIsClosedCleanly(t *testing.T) {
	f := plainForward(serverA)
	f.Health = only(lb)
	r := newForwardRig(t, f)
	from := r.open("GET / HTTP/1.0\r\n")
	if !from.gotFIN || !from.isOpen {
		t.Fatal("no FIN before that of the health check")
	}
	from.deliver(make([]byte, 3*relayBudget*bufferSize))
	r.settle()
	if from.unread() != 0 {
		t.Errorf("%d bytes are unread", from.unread())
	}
	sendFIN(r, from)
	r.expectEnd(1, record.Empty, record.Trust, record.Gateway)
	if from.gotRST || len(r.dials) != 0 {
		t.Errorf("a RST: %v, %d backends dialled", from.gotRST, len(r.dials))
	}
	r.expectClean()
}

func TestClientLimit(t *testing.T) {
	f := plainForward(serverA)
	f.MaxConnectionsPerClient = 2
	r := newForwardRig(t, f)
	first, second := r.open(header), r.open(header)
	r.open(header)
	r.expectEnd(1, record.Limit, record.Dial, record.Gateway)
	// Other clients are not affected, and LOCAL names no client.
	other, check := r.open(v2(client6, dest6)), r.open(local)
	finishBothOf(r, first, 0)
	r.open(header)
	if len(r.records) != 2 {
		t.Errorf("the place of a connection that ended was not reused: %v", r.lastRecord(len(r.records)).Outcome)
	}
	r.engine.Cut()
	r.settle()
	for _, f := range []*file{second, other, check} {
		if !f.gotRST {
			t.Error("Cut did not reset a connection")
		}
	}
	r.expectClean()
}

// finishBothOf is finishBoth for the i-th dial.
func finishBothOf(r *rig, f *file, i int) {
	f.sendFIN()
	r.dials[i].far.sendFIN()
	r.settle()
}

func TestClientLimitOfPassedPeers(t *testing.T) {
	f := plainForward(serverA)
	f.Trust, f.PassUntrusted, f.MaxConnectionsPerClient = prefixes{}, true, 1
	r := newForwardRig(t, f)
	r.open("")
	r.open("")
	r.expectEnd(1, record.Limit, record.Trust, record.Gateway)
}

func TestRecord(t *testing.T) {
	f := plainForward(serverA)
	f.Source = transparent.Policy{SourcePort: transparent.Any}
	f.Transparent = true
	r := newForwardRig(t, f)
	authority := proxyproto.TLV{Type: proxyproto.TypeAuthority, Value: []byte("mail.example.org")}
	from := r.open(v2(client4, dest4, authority))
	from.deliver([]byte("12345"))
	r.backend().deliver([]byte("123"))
	r.clock += int64(time.Second)
	finishBoth(r, from)
	c := r.expectEnd(1, record.OK, record.Relay, record.Client)
	if c.Details == nil || c.Details.Authority != "mail.example.org" {
		t.Errorf("details %+v", c.Details)
	}
	if c.BytesIn != 5 || c.BytesOut != 3 || c.Duration < time.Second || c.Version != 2 || c.Destination != dest4 {
		t.Errorf("%+v", c)
	}
	if !c.Transparent || c.Source != netip.AddrPortFrom(client4.Addr(), ephemeralPort) || c.Backend != serverA.Addr {
		t.Errorf("transparent %v from %v to %v", c.Transparent, c.Source, c.Backend)
	}
}

// Header time and connect time add up to no more than the duration, though the loop's own clock
// stands still during a batch of events.
func TestRecordTimes(t *testing.T) {
	for _, p := range []plan{{}, unreachable, {waits: 1, result: unix.ECONNREFUSED}} {
		r := newForwardRig(t, plainForward(serverA))
		r.step = 1000
		r.plans[serverA] = []plan{p}
		from := r.open(header + "payload")
		sendRST(r, from)
		c := r.lastRecord(1)
		if c.HeaderTime <= 0 || c.Duration < c.HeaderTime+c.ConnectTime {
			t.Errorf("%v: header %v and connect %v in %v", c.Outcome, c.HeaderTime, c.ConnectTime, c.Duration)
		}
	}
}
