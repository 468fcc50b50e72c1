package engine

import (
	"net/netip"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// withHeaders is plainForward with so many stacked headers.
func withHeaders(n int) *forward.Forward {
	f := plainForward(serverA)
	f.Headers = n
	return f
}

// A LOCAL header ends a stack: it is the health check of a load balancer, which has no client whose
// header could follow. UNKNOWN and UNSPEC do not: the connection behind them was relayed. The rows
// follow "Two load balancers in a row" in docs/load-balancers.md.
func TestLocalEndsAStack(t *testing.T) {
	const unknown, unspec = "PROXY UNKNOWN\r\n", proxyproto.Signature + "\x21\x00\x00\x00"
	aws := proxyproto.Signature + "\x20\x11\x00\x07\x04\x00\x04abcd"
	for _, row := range []struct {
		name    string
		headers int
		sends   string
		payload string
		client  netip.AddrPort
		kind    record.HeaderKind
	}{
		{"the check of the outer one", 2, local + "PING", "PING", lb, record.V2Local},
		{"the check of the outer one, AWS", 2, aws + "PING", "PING", lb, record.V2Local},
		{"the check of the outermost of three", 3, local + "PING", "PING", lb, record.V2Local},
		{"the check of the one in the middle of three", 3, header + local + "PING", "PING", lb, record.V2Local},
		{"the check of the inner one", 2, header + local + "PING", "PING", lb, record.V2Local},
		{"a header after LOCAL is payload", 2, local + header, header, lb, record.V2Local},
		{"outer UNKNOWN", 2, unknown + header + "x", "x", client4, record.V1Proxy},
		{"outer UNSPEC", 2, unspec + header + "x", "x", client4, record.V1Proxy},
		{"inner UNKNOWN", 2, header + unknown + "x", "x", lb, record.V1Unknown},
		{"inner UNSPEC", 2, header + unspec + "x", "x", lb, record.V2Unknown},
		{"a client", 2, v2(client6, dest6) + header + "x", "x", client4, record.V1Proxy},
		{"one header, LOCAL", 1, local + "PING", "PING", lb, record.V2Local},
	} {
		for _, step := range []int{1, 7, 1000} {
			r := newForwardRig(t, withHeaders(row.headers))
			from := r.open("")
			for rest := row.sends; rest != ""; rest = rest[min(step, len(rest)):] {
				from.deliver([]byte(rest[:min(step, len(rest))]))
				r.settle()
			}
			if len(r.records) != 0 {
				t.Errorf("%s: ended as %v", row.name, r.records[0].Outcome)
				continue
			}
			finishBoth(r, from)
			c := r.expectEnd(1, record.OK, record.Relay, record.Client)
			if got := string(r.backend().received); got != row.payload || c.Client != row.client {
				t.Errorf("%s: client %v, payload %q", row.name, c.Client, got)
			}
			var counted [record.NumHeaderKinds]uint64
			counted[row.kind] = 1
			if n := r.tally().Headers; n != counted || c.Command != row.kind.Command() {
				t.Errorf("%s: counted %v, command %q; want %v", row.name, n, c.Command, counted)
			}
			r.expectClean()
		}
	}
}

// With --local close the outer load balancer's check is closed cleanly, without a second header.
func TestLocalEndsAStackWhereItIsClosed(t *testing.T) {
	f := withHeaders(2)
	f.CloseLocal = true
	r := newForwardRig(t, f)
	from := r.open(local)
	if !from.gotFIN {
		t.Error("the load balancer got no FIN")
	}
	sendFIN(r, from)
	r.expectEnd(1, record.OK, record.Header, record.Gateway)
	r.expectClean()
}

// The record has the command of the header, and LOCAL is counted apart, however it ends.
func TestCommandIsReported(t *testing.T) {
	for _, tt := range []struct {
		name, sends, command string
		change               func(*forward.Forward)
		outcome              record.Outcome
	}{
		{"client, version 1", header, "proxy", nil, record.OK},
		{"client, version 2", v2(client4, dest4), "proxy", nil, record.OK},
		{"LOCAL", local, "local", nil, record.OK},
		{"LOCAL, closed", local, "local", closeLocal, record.OK},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", "unknown", nil, record.OK},
		{"UNKNOWN, refused", "PROXY UNKNOWN\r\n", "unknown", func(f *forward.Forward) { f.RejectUnknown = true }, record.NoAddress},
		{"no header", "GET / HTTP/1.1\r\n", "", nil, record.NotProxy},
		{"nothing", "", "", nil, record.Empty},
		{"half a header", header[:20], "", nil, record.Truncated},
		{"an untrusted peer", "hello", "", func(f *forward.Forward) { f.PassUntrusted, f.Trust = true, prefixes{} }, record.OK},
	} {
		f := plainForward(serverA)
		if tt.change != nil {
			tt.change(f)
		}
		r := newForwardRig(t, f)
		from := r.open(tt.sends)
		if len(r.records) == 0 {
			sendFIN(r, from)
		}
		if len(r.records) == 0 {
			sendFIN(r, r.backend())
		}
		c := r.lastRecord(1)
		if c.Command.String() != tt.command || c.Outcome != tt.outcome {
			t.Errorf("%s: command %q, %s; want %q, %s", tt.name, c.Command, c.Outcome, tt.command, tt.outcome)
		}
		var want [record.NumOutcomes]uint64
		if tt.command == "local" {
			want[tt.outcome] = 1
		}
		if got := r.tally().Local; got != want {
			t.Errorf("%s: counted as LOCAL %v, want %v", tt.name, got, want)
		}
		r.expectClean()
	}
}

// An incomplete stack is no health check: what follows UNKNOWN is waited for.
func TestOnlyLocalEndsAStack(t *testing.T) {
	for _, first := range []string{"PROXY UNKNOWN\r\n", proxyproto.Signature + "\x21\x00\x00\x00", header} {
		r := newForwardRig(t, withHeaders(2))
		r.open(first)
		r.advance(4 * time.Second)
		if len(r.records) != 0 || len(r.dials) != 0 {
			t.Errorf("after %q: %d records, %d dials, want the gateway to wait", first, len(r.records), len(r.dials))
		}
		r.advance(2 * time.Second)
		r.expectEnd(1, record.HeaderTimeout, record.Header, record.Timeout)
	}
}

// The offset of a header that ends early is the number of its bytes that arrived, in any
// segmentation, counted from its own first byte, as for a header that is wrong.
func TestOffsetOfIncompleteHeader(t *testing.T) {
	long := v2(client6, dest6, proxyproto.TLV{Type: proxyproto.TypeAuthority, Value: []byte("mail.test")})
	for _, row := range []struct {
		name    string
		headers int
		sends   string
		want    int
	}{
		{"v1", 1, header[:20], 20},
		{"v1, one byte", 1, header[:1], 1},
		{"v1, without its LF", 1, header[:len(header)-1], len(header) - 1},
		{"v2, within the signature", 1, long[:5], 5},
		{"v2, within the fixed part", 1, long[:14], 14},
		{"v2, within the addresses", 1, long[:20], 20},
		{"v2, within a TLV", 1, long[:len(long)-1], len(long) - 1},
		{"LOCAL", 1, local[:15], 15},
		{"none of the second", 2, long, 0},
		{"the second, v1", 2, long + header[:7], 7},
		{"the second, v2", 2, header + long[:20], 20},
	} {
		for _, step := range []int{1, 1000} {
			for _, end := range []struct {
				then    func(*rig, *file)
				outcome record.Outcome
				by      record.Party
			}{
				{sendFIN, record.Truncated, record.Peer},
				{after(6 * time.Second), record.HeaderTimeout, record.Timeout},
			} {
				r := newForwardRig(t, withHeaders(row.headers))
				from := r.open("")
				for rest := row.sends; rest != ""; rest = rest[min(step, len(rest)):] {
					from.deliver([]byte(rest[:min(step, len(rest))]))
					r.settle()
				}
				end.then(r, from)
				if c := r.expectEnd(1, end.outcome, record.Header, end.by); c.Offset != row.want {
					t.Errorf("%s, %v: offset %d, want %d", row.name, end.outcome, c.Offset, row.want)
				}
			}
		}
	}
	// The control: a wrong second header counts from its first byte, too.
	r := newForwardRig(t, withHeaders(2))
	r.open(long + "PROXY TCP4\n")
	if c := r.expectEnd(1, record.Malformed, record.Header, record.Peer); c.Offset != len("PROXY TCP4\n") {
		t.Errorf("malformed: offset %d", c.Offset)
	}
}
