package engine

import (
	"math/rand/v2"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// At the limit the connection that has waited longest is reset. Connections with a header and the
// new one are not affected.
func TestOldestWaitingIsEvicted(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{MaxWaiting: 2, Forwards: []*forward.Forward{plainForward(serverA)}})
	established := r.open(header)
	oldest := r.open(header[:10])
	second := r.open("")
	if n := r.engine.Counters().Waiting; n != 2 || len(r.records) != 0 {
		t.Fatalf("%d wait, %d ended", n, len(r.records))
	}
	third := r.open("")
	c := r.expectEnd(1, record.Limit, record.Header, record.Gateway)
	if !oldest.gotRST || c.Sample != header[:10] || c.Reason == "" {
		t.Errorf("the oldest was not reset, or without a word: %+v", c)
	}
	second.deliver([]byte(header)) // it no longer waits
	r.settle()
	fourth := r.open("")
	if len(r.records) != 1 {
		t.Errorf("%d ended, though only two wait", len(r.records))
	}
	fifth := r.open("")
	r.expectEnd(2, record.Limit, record.Header, record.Gateway)
	for _, f := range []*file{established, second, fourth, fifth} {
		f.deliver([]byte("payload"))
		if f.gotRST {
			t.Error("a connection that may stay was reset")
		}
	}
	if !third.gotRST {
		t.Error("the third has waited longest, and stays")
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// A connection whose header comes at once is served, however many others send nothing.
func TestSilentPeersDoNotBlockOthers(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Loops: 2, MaxWaiting: 10, MaxConnections: 30, Forwards: []*forward.Forward{plainForward(serverA)}})
	for range 200 {
		r.open("PROXY TCP4 ")
		r.open(header)
		r.dials[len(r.dials)-1].far.reset()
		r.settle()
	}
	limits := 0
	for _, c := range r.records {
		if c.Outcome == record.Limit {
			limits++
		}
	}
	if n := r.engine.Counters(); n.Waiting > 10 || n.Active != n.Waiting || limits != 200-n.Waiting || len(r.dials) != 200 {
		t.Errorf("%d wait of %d, %d gave way, %d were served", n.Waiting, n.Active, limits, len(r.dials))
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// The limit is divided by the number of loops and rounded up.
func TestWaitingLimitPerLoop(t *testing.T) {
	for _, row := range []struct{ loops, most, each int }{{1, 5, 5}, {2, 5, 3}, {4, 2, 1}, {2, 0, 0}} {
		r := newRig(t, newScript(t, 0), Config{Loops: row.loops, MaxWaiting: row.most, Forwards: []*forward.Forward{plainForward(serverA)}})
		for _, l := range r.engine.loops {
			if l.waiting.limit != row.each {
				t.Errorf("%d of %d loops: %d each, want %d", row.most, row.loops, l.waiting.limit, row.each)
			}
		}
	}
}

// The queue does not grow with sessions that no longer wait, and its order is that of a plain list.
func TestWaitingQueueIsBounded(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{MaxWaiting: 50, Forwards: []*forward.Forward{plainForward(serverA)}})
	random := rand.New(rand.NewPCG(1, 2))
	var waits []*file
	for range 5000 {
		f := r.open("")
		waits = append(waits, f)
		if len(waits) > 50 {
			if !waits[0].gotRST {
				t.Fatal("the one that waits longest does not give way")
			}
			waits = waits[1:]
		}
		if random.IntN(3) > 0 {
			i := random.IntN(len(waits))
			waits[i].reset()
			r.settle()
			waits = append(waits[:i], waits[i+1:]...)
		}
		if n := len(r.loop().waiting.refs); n > 2*51+64+1 {
			t.Fatalf("the queue is %d long, and %d wait", n, len(waits))
		}
	}
	for _, f := range waits {
		if f.gotRST {
			t.Error("one that may wait was reset")
		}
	}
	if n := r.engine.Counters().Waiting; n != len(waits) {
		t.Errorf("%d wait, want %d", n, len(waits))
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}
