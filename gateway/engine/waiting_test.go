package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// Above the limit the connection that has been silent longest is reset. Connections with a header
// and the new one are not affected.
func TestSilentLongestIsEvicted(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{MaxWaiting: 2, Forwards: []*forward.Forward{plainForward(serverA)}})
	established := r.open(header)
	oldest := r.open(header[:10])
	second := r.open("")
	if n := r.engine.Counters().Waiting; n != 2 || len(r.records) != 0 {
		t.Fatalf("%d connections are waiting, %d ended", n, len(r.records))
	}
	third := r.open("")
	if len(r.records) != 0 {
		t.Error("a connection was reset whose header may be on its way")
	}
	r.advance(silence)
	c := r.expectEnd(1, record.Limit, record.Header, record.Gateway)
	if !oldest.gotRST || c.Sample != header[:10] || c.Reason == "" {
		t.Errorf("the oldest was not reset, or its record lacks a sample or reason: %+v", c)
	}
	second.deliver([]byte(header)) // it has a header now
	r.settle()
	fourth := r.open("")
	r.advance(silence)
	if len(r.records) != 1 {
		t.Errorf("%d ended, though only two are waiting", len(r.records))
	}
	fifth := r.open("")
	r.advance(silence)
	r.expectEnd(2, record.Limit, record.Header, record.Gateway)
	for _, f := range []*file{established, second, fourth, fifth} {
		f.deliver([]byte("payload"))
		if f.gotRST {
			t.Error("a connection within the limit was reset")
		}
	}
	if !third.gotRST {
		t.Error("the third has waited longest and was not reset")
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// A connection whose header comes at once is served, however many others send nothing.
func TestSilentPeersDoNotBlockOthers(t *testing.T) {
	f := plainForward(serverA)
	f.HeaderTimeout = 0
	r := newRig(t, newScript(t, 0), Config{Loops: 2, MaxWaiting: 10, MaxConnections: 30,
		Forwards: []*forward.Forward{f}})
	for range 200 {
		r.open("PROXY TCP4 ")
		r.open(header)
		r.dials[len(r.dials)-1].far.reset()
		r.advance(silence)
	}
	limits := r.count(record.Limit)
	if n := r.engine.Counters(); n.Waiting > 10 || n.Active != n.Waiting || limits != 200-n.Waiting ||
		len(r.dials) != 200 {
		t.Errorf("%d of %d are waiting, %d were evicted, %d were served", n.Waiting, n.Active, limits, len(r.dials))
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// The limit is divided by the number of loops and rounded up.
func TestWaitingLimitPerLoop(t *testing.T) {
	for _, row := range []struct{ loops, most, each int }{{1, 5, 5}, {2, 5, 3}, {4, 2, 1}, {2, 0, 0}} {
		r := newRig(t, newScript(t, 0), Config{Loops: row.loops, MaxWaiting: row.most,
			Forwards: []*forward.Forward{plainForward(serverA)}})
		for _, l := range r.engine.loops {
			if l.waiting.limit != row.each {
				t.Errorf("limit %d, %d loops: %d each, want %d", row.most, row.loops, l.waiting.limit, row.each)
			}
		}
	}
}

// The queue does not grow with sessions that no longer wait, and its order is that of a plain list.
func TestWaitingQueueIsBounded(t *testing.T) {
	f := plainForward(serverA)
	f.HeaderTimeout = 0
	r := newRig(t, newScript(t, 0), Config{MaxWaiting: 50, Forwards: []*forward.Forward{f}})
	random := rand.New(rand.NewPCG(1, 2))
	var waits []*file
	for range 5000 {
		f := r.open("")
		r.advance(silence)
		waits = append(waits, f)
		if len(waits) > 50 {
			if !waits[0].gotRST {
				t.Fatal("the connection that waited longest was not reset")
			}
			waits = waits[1:]
		}
		if random.IntN(3) > 0 {
			i := random.IntN(len(waits))
			waits[i].reset()
			r.settle()
			waits = append(waits[:i], waits[i+1:]...)
		}
		if n := len(r.loop().waiting.list); n > 2*51+64+1 {
			t.Fatalf("the queue has %d entries, %d are waiting", n, len(waits))
		}
	}
	for _, f := range waits {
		if f.gotRST {
			t.Error("a connection within the limit was reset")
		}
	}
	if n := r.engine.Counters().Waiting; n != len(waits) {
		t.Errorf("%d are waiting, want %d", n, len(waits))
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// silence is how long a connection is silent when it may be reset, in whole ticks.
const silence = minSilence + time.Duration(tick)

// count returns the number of records with an outcome.
func (r *rig) count(o record.Outcome) (n int) {
	for _, c := range r.records {
		if c.Outcome == o {
			n++
		}
	}
	return n
}

// burst makes connections that send the pieces of b in turn, all of them the first piece before the
// loops do anything, and so on.
func (r *rig) burst(n int, pieces ...string) (all []*file) {
	for range n {
		all = append(all, r.arrive(r.listenerSocket(0), lb))
	}
	for i, b := range pieces {
		if i > 0 {
			r.settle()
		}
		for _, f := range all {
			f.deliver([]byte(b))
		}
	}
	r.settle()
	return all
}

// Connections whose header has arrived are served, however small the limit and however many arrive
// at once beside silent ones. Only silent ones are reset.
func TestArrivedHeaderIsServed(t *testing.T) {
	for _, row := range []struct {
		name                     string
		loops, limit, many, mute int
		pieces                   []string
	}{
		{"one loop", 1, 10, 100, 0, []string{header + "payload"}},
		{"limit of one", 1, 1, 300, 0, []string{header + "payload"}},
		{"two loops", 2, 10, 300, 0, []string{header + "payload"}},
		{"four loops, one each", 4, 4, 300, 0, []string{header + "payload"}},
		{"payload later", 2, 10, 100, 0, []string{header, "pay", "load"}},
		{"header in two segments", 1, 100, 100, 0, []string{header[:20], header[20:] + "payload"}},
		{"header in two segments, beyond the limit", 1, 10, 100, 0, []string{header[:20], header[20:] + "payload"}},
		{"header in two segments, two loops", 2, 10, 100, 0, []string{header[:7], header[7:] + "payload"}},
		{"silent ones before", 1, 10, 100, 10, []string{header + "payload"}},
		{"more silent ones than the limit", 1, 10, 100, 30, []string{header + "payload"}},
		{"silent ones, two loops", 2, 10, 100, 30, []string{header + "payload"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, newScript(t, 0), Config{Loops: row.loops, MaxWaiting: row.limit,
				Forwards: []*forward.Forward{plainForward(serverA)}})
			r.burst(row.mute, "")
			r.burst(row.many, row.pieces...)
			for range 10 {
				r.advance(silence)
			}
			if n := len(r.dials); n != row.many {
				t.Errorf("%d of %d were served", n, row.many)
			}
			for _, d := range r.dials {
				if string(d.far.received) != "payload" {
					t.Fatalf("the backend received %q", d.far.received)
				}
			}
			each := (row.limit + row.loops - 1) / row.loops
			if n := r.count(record.Limit); n > row.mute || n < row.mute-each*row.loops {
				t.Errorf("%d were reset, %d are silent", n, row.mute)
			}
			r.engine.Cut()
			r.settle()
			r.expectClean()
		})
	}
}

// Above the limit no connection is accepted as long as the silent ones are young, whatever the
// number of turns. New ones stay in the kernel's queue until one is served, ends or has been silent
// long enough.
func TestAcceptsNoFasterThanThereIsRoom(t *testing.T) {
	for name, make := range map[string]func(r *rig, f *file){
		"served":       func(r *rig, f *file) { f.deliver([]byte(header)); r.settle() },
		"ended":        func(r *rig, f *file) { f.sendFIN(); r.settle() },
		"silent":       func(r *rig, f *file) { r.advance(silence) },
		"not a header": func(r *rig, f *file) { f.deliver([]byte("GET /")); r.settle() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newScript(t, 0), Config{MaxWaiting: 3, Forwards: []*forward.Forward{plainForward(serverA)}})
			all := r.burst(10)
			for range 20 {
				r.settle()
			}
			if n := len(r.listenerSocket(0).list); n != 10-4 || len(r.records) != 0 {
				t.Errorf("%d are in the queue and %d were reset, want 6 and 0", n, len(r.records))
			}
			make(r, all[0])
			if n := len(r.listenerSocket(0).list); n >= 6 {
				t.Errorf("%d are in the queue", n)
			}
			if n := r.engine.Counters().Waiting; n > 4 {
				t.Errorf("%d wait, the limit is 3", n)
			}
			r.advance(10 * time.Second)
			r.engine.Cut()
			r.settle()
			r.expectClean()
		})
	}
}

// A connection that sends its header byte by byte can be reset when its time is over, but silent
// ones are reset first.
func TestSlowHeadersDoNotBlock(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{MaxWaiting: 3, Forwards: []*forward.Forward{plainForward(serverA)}})
	slow := r.burst(2, header[:1])
	mute := r.burst(2, "")
	for i := range 20 {
		r.advance(minSilence / 10)
		for _, f := range slow {
			f.deliver([]byte(header[i+1 : i+2]))
		}
		r.settle()
	}
	if slow[0].gotRST || slow[1].gotRST || !mute[0].gotRST || mute[1].gotRST {
		t.Error("want exactly the silent connection reset")
	}
	r.burst(20, header)
	if len(r.dials) != 20 {
		t.Errorf("%d of 20 were served", len(r.dials))
	}
	more := r.burst(3, header[:1])
	r.advance(silence)
	if !mute[1].gotRST || !slow[0].gotRST && !slow[1].gotRST {
		t.Error("connections with half a header cannot be reset")
	}
	for _, f := range more {
		if f.gotRST {
			t.Error("the youngest was reset")
		}
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// When the listeners close, the queue is accepted at once. Connections whose header has arrived are
// served.
func TestArrivedHeaderIsServedAtTheEnd(t *testing.T) {
	for _, loops := range []int{1, 2} {
		r := newRig(t, newScript(t, 0), Config{Loops: loops, MaxWaiting: 4,
			Forwards: []*forward.Forward{plainForward(serverA)}})
		for i := range 100 {
			b := header
			if i%3 == 0 {
				b = ""
			}
			r.arrive(r.listenerSocket(0), lb).deliver([]byte(b))
		}
		for _, l := range r.engine.loops {
			l.closeListeners()
		}
		if n := r.engine.Counters().Waiting; n > 100 {
			t.Errorf("%d wait", n)
		}
		r.settle()
		if n := r.count(record.Limit); len(r.dials) != 66 || n < 34-4 || n > 34 {
			t.Errorf("%d of 66 were served, %d of 34 were reset", len(r.dials), n)
		}
		r.engine.Cut()
		r.settle()
		r.expectClean()
	}
}

// Peers that need no header are not counted: untrusted ones, health checks, and those beyond their
// rate.
func TestOthersDoNotWaitForAHeader(t *testing.T) {
	checker := netip.MustParseAddrPort("192.0.2.3:1")
	for _, pass := range []bool{false, true} {
		t.Run(fmt.Sprint(pass), func(t *testing.T) {
			f := plainForward(serverA)
			f.Health, f.PassUntrusted = only(checker), pass
			f.AcceptRate = forward.Rate{PerSecond: 1, Burst: 2}
			r := newRig(t, newScript(t, 0), Config{Loops: 2, MaxWaiting: 2, Forwards: []*forward.Forward{f}})
			for range 20 {
				for _, from := range []netip.AddrPort{checker, client4, lb} {
					r.arrive(r.listenerSocket(0), from)
				}
			}
			r.settle()
			if n := r.engine.Counters().Waiting; n != 2 {
				t.Errorf("%d wait, want 2", n)
			}
			r.advance(time.Minute)
			if n := r.engine.Counters().Waiting; n != 0 {
				t.Errorf("%d wait, want 0", n)
			}
			r.engine.Cut()
			r.settle()
			r.expectClean()
		})
	}
}
