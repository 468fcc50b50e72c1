package engine

import (
	"net/netip"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// Beyond its rate a peer is reset. Its existing connections continue. Untrusted peers, peers on a
// unix socket and health checks do not count.
func TestAcceptRate(t *testing.T) {
	f := plainForward(serverA)
	f.AcceptRate = forward.Rate{PerSecond: 1, Burst: 2}
	checker := netip.MustParseAddrPort("192.0.2.3:1")
	f.Health = only(checker)
	r := newForwardRig(t, f)
	first := r.open(header)
	r.open(header)
	r.open(header)
	c := r.expectEnd(1, record.Limit, record.Trust, record.Gateway)
	if c.Reason == "" || c.Peer != lb {
		t.Errorf("%+v", c)
	}
	for range 5 {
		r.openFrom(0, netip.AddrPort{}, header)
		r.openFrom(0, checker, "").sendFIN()
		r.settle()
		r.openFrom(0, client4, "")
	}
	limits := 0
	for _, c := range r.records {
		if c.Outcome == record.Limit {
			limits++
		}
	}
	first.deliver([]byte("goes on"))
	r.settle()
	if limits != 1 || len(r.dials) != 2+5 || string(r.dials[0].far.received) != "goes on" {
		t.Errorf("%d exceeded the rate, %d were served", limits, len(r.dials))
	}
	r.advance(time.Second)
	r.open(header)
	if len(r.dials) != 8 {
		t.Error("the connection a second later was refused")
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// A /64 counts as one client.
func TestClientLimitCountsPrefixes(t *testing.T) {
	f := plainForward(serverA6)
	f.MaxConnectionsPerClient = 1
	r := newForwardRig(t, f)
	for i, from := range []string{"[2001:db8::9]:1", "[2001:db8::a]:2", "[2001:db8:0:1::9]:3"} {
		r.open(v2(netip.MustParseAddrPort(from), dest6))
		if want := []int{0, 1, 1}[i]; len(r.records) != want {
			t.Errorf("%s: %d were refused, want %d", from, len(r.records), want)
		}
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}
