package engine

import (
	"net/netip"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/netns"
	"unproxy/transparent"
)

// The kernel connects from another address than the socket was bound to. No payload is sent, the
// backend's connection is reset, and the next backend is tried.
func TestConnectFromAnotherAddressIsRefusedBeforeThePayload(t *testing.T) {
	other, server6 := netip.MustParseAddr("127.0.0.1"), forward.Endpoint{Addr: netip.MustParseAddrPort("[2001:db8::80]:25")}
	for _, tt := range []struct {
		name   string
		client netip.AddrPort
		to     forward.Endpoint
		plan   plan
	}{
		{"IPv4", client4, serverA, plan{source: other}},
		{"IPv4, backend far away", client4, serverA, plan{source: other, waits: 3}},
		{"IPv4, one of its own", client4, serverA, plan{source: netip.MustParseAddr("198.51.100.5")}},
		{"IPv6", client6, server6, plan{source: netip.IPv6Loopback()}},
		{"IPv4 address instead of IPv6", client6, server6, plan{source: other}},
	} {
		for _, port := range []transparent.SourcePort{transparent.Prefer, transparent.Keep, transparent.Any} {
			f := transparently(plainForward(tt.to))
			f.Source.SourcePort = port
			r := newForwardRig(t, f)
			r.plans[tt.to] = []plan{tt.plan}
			from := r.open(v2(tt.client, dest4) + "payload")
			c := r.expectEnd(1, record.SourceDenied, record.Dial, record.Gateway)
			far := r.backend()
			if c.Reason != "the kernel connects from another address" || len(far.received) != 0 || !far.gotRST || !from.gotRST ||
				c.Source.IsValid() {
				t.Errorf("%s, %v: %q from %v, %d bytes received, reset %v", tt.name, port, c.Reason, c.Source,
					len(far.received), far.gotRST)
			}
			r.expectClean()

			// Control: the same without the other address.
			r = newForwardRig(t, f)
			r.plans[tt.to] = []plan{{waits: tt.plan.waits}}
			from = r.open(v2(tt.client, dest4) + "payload")
			for range tt.plan.waits {
				r.settle()
			}
			finishBoth(r, from)
			r.expectEnd(1, record.OK, record.Relay, record.Client)
			if got := string(r.backend().received); got != "payload" {
				t.Errorf("%s, %v: the backend received %q", tt.name, port, got)
			}
			r.expectClean()
		}
	}
}

func TestOtherBackendIsTriedAfterAnotherSource(t *testing.T) {
	r := newForwardRig(t, transparently(plainForward(serverA, serverB)))
	r.plans[serverA] = []plan{{source: netip.MustParseAddr("127.0.0.1")}}
	from := r.open(header + "payload")
	finishBoth(r, from)
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	if got := string(r.backend().received); len(r.dials) != 2 || got != "payload" {
		t.Errorf("%d dials, payload %q", len(r.dials), got)
	}
	r.expectClean()
}

// A plain connection has no address to compare.
func TestPlainConnectionTakesAnySource(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.plans[serverA] = []plan{{source: netip.MustParseAddr("127.0.0.1")}}
	finishBoth(r, r.open(header+"payload"))
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	r.expectClean()
}

// On the real kernel, with a policy that knows no broadcast address: the backend gets a connection
// from 127.0.0.1, without a byte.
//
//	br0: 10.77.0.1/24, whose broadcast address is 10.77.0.99
func TestBroadcastSourceIsRefusedWithoutThePolicy(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "link add br0 type bridge")
		netns.IP(t, "link set br0 up")
		netns.IP(t, "address add 10.77.0.1/24 broadcast 10.77.0.99 dev br0")
		ln := listen(t, "tcp", "127.0.0.1:0")
		f := transparently(loopback(forward.Endpoint{Addr: netip.MustParseAddrPort(ln.Addr().String())}))
		l := startReal(t, f)
		c := dialTCP(t, l.Bound()[0].String())
		if _, err := c.Write([]byte(v2(netip.MustParseAddrPort("10.77.0.99:4711"), dest4) + "payload")); err != nil {
			t.Fatal(err)
		}
		record := l.expectRecord(record.SourceDenied, record.Gateway)
		if record.Reason != "the kernel connects from another address" {
			t.Errorf("reason %q", record.Reason)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n, err := conn.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("the backend read %d bytes, %v", n, err)
		}
	})
}
