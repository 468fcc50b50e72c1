package engine

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// mutableSet is a set of addresses that a test replaces.
type mutableSet struct{ atomic.Pointer[prefixes] }

func (m *mutableSet) Contains(a netip.Addr) bool { return m.Load().Contains(a) }

func trusting(p prefixes) *mutableSet {
	m := new(mutableSet)
	m.Store(&p)
	return m
}

// A peer that is no longer trusted keeps its connections, in any phase. Its next connection is
// refused.
func TestTrustWithdrawn(t *testing.T) {
	f := plainForward(serverA)
	set := trusting(only(lb))
	f.Trust = set
	r := newForwardRig(t, f)
	established := r.open(header)
	half := r.open(header[:10])
	set.Store(&prefixes{})
	r.engine.Recheck()
	r.settle()
	half.deliver([]byte(header[10:]))
	established.deliver([]byte("goes on"))
	r.settle()
	if len(r.records) != 0 || len(r.dials) != 2 || string(r.dials[0].far.received) != "goes on" {
		t.Fatalf("%d connections ended, %d were dialled", len(r.records), len(r.dials))
	}
	r.open(header)
	r.expectEnd(1, record.Untrusted, record.Trust, record.Gateway)
}

// With CutUntrusted, a peer that is no longer trusted loses all connections that depend on trust.
// No other connection is affected.
func TestCutUntrusted(t *testing.T) {
	other := netip.MustParseAddrPort("192.0.2.2:40000")
	checker := netip.MustParseAddrPort("192.0.2.3:40000")
	stranger := netip.MustParseAddrPort("192.0.2.4:40000")
	f, lenient := withSecondListener(plainForward(serverA)), plainForward(serverB)
	set := trusting(prefixes{only(lb)[0], only(other)[0]})
	f.Trust, f.CutUntrusted, f.PassUntrusted, f.Health = set, true, true, only(checker)
	lenient.Trust = set
	lenient.Listeners[0].Endpoint.Addr = netip.MustParseAddrPort("192.0.2.80:82")
	r := newRig(t, newScript(t, 0), Config{Loops: 2, Forwards: []*forward.Forward{f, lenient}})
	cut := map[string]*file{
		"established":                  r.openFrom(0, lb, header),
		"on another loop":              r.openFrom(1, lb, header),
		"with half a header":           r.openFrom(0, lb, header[:10]),
		"before its header":            r.openFrom(1, lb, ""),
		"while its backend is dialled": nil,
	}
	r.plans[serverA] = []plan{{waits: -1}}
	cut["while its backend is dialled"] = r.openFrom(0, lb, header)
	r.plans[serverA] = []plan{{}}
	kept := map[string]*file{
		"of a peer that is still trusted":      r.openFrom(0, other, header),
		"of an untrusted peer that was passed": r.openFrom(0, stranger, "payload"),
		"of a health check":                    r.openFrom(0, checker, ""),
		"of a forward without CutUntrusted":    r.openFrom(2, lb, header),
		"on a unix socket":                     r.openFrom(1, netip.AddrPort{}, header),
	}
	set.Store(&prefixes{only(other)[0]})
	r.engine.Recheck()
	r.settle()
	for name, f := range cut {
		if !f.gotRST {
			t.Errorf("the connection %s was not reset", name)
		}
	}
	for name, f := range kept {
		if f.gotRST || !f.isOpen {
			t.Errorf("the connection %s was reset", name)
		}
	}
	if len(r.records) != len(cut) {
		t.Errorf("%d connections ended, want %d", len(r.records), len(cut))
	}
	for _, c := range r.records {
		if c.Outcome != record.Untrusted || c.By != record.Gateway || c.Peer.Addr() != lb.Addr() ||
			c.Reason != "peer is no longer trusted" {
			t.Errorf("ended %v in %v by %v: %s", c.Outcome, c.Phase, c.By, c.Reason)
		}
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// Alive is closed when all loops have handled a call, and not before.
func TestAlive(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Loops: 2, Forwards: []*forward.Forward{plainForward(serverA)}})
	answered := r.engine.Alive()
	r.engine.loops[0].turn(r.events)
	r.engine.loops[0].turn(r.events)
	select {
	case <-answered:
		t.Error("alive, though one loop has not turned")
	default:
	}
	r.settle()
	<-answered
}

// After Close, calls get no answer, and nothing is written to descriptors, which may belong to
// something else.
func TestRealCallsAfterClose(t *testing.T) {
	_, to := server(t)
	f := loopback(to)
	f.CutUntrusted = true
	l := newReal(t, f)
	l.Start()
	l.Close()
	l.Resolve()
	l.Recheck()
	select {
	case <-l.Alive():
		t.Error("alive")
	default:
	}
	for _, loop := range l.loops {
		if len(loop.mail.calls) != 0 || loop.mail.unread.Load() {
			t.Error("a call was queued for a loop that has ended")
		}
	}
}
