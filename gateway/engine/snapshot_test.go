package engine

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// sessions returns snapshots of all open connections.
func (r *rig) sessions() (all []Session) {
	r.Helper()
	if err := r.engine.EachSession(r.Context(), func(s *Session) { all = append(all, *s) }); err != nil {
		r.Fatal(err)
	}
	return all
}

func TestEachSession(t *testing.T) {
	f := plainForward(serverA)
	f.Name = "forward"
	r := newForwardRig(t, f)
	if got := r.sessions(); len(got) != 0 {
		t.Fatalf("sessions at the start: %+v", got)
	}
	r.open(header[:10])
	r.advance(time.Second)
	r.plans[serverA] = []plan{silent, {}}
	r.open(header)
	r.advance(time.Second)
	authority := proxyproto.TLV{Type: proxyproto.TypeAuthority, Value: []byte("a.example\xff")}
	from := r.open(v2(client4, dest4, authority) + "hello")
	r.backend().deliver([]byte("welcome"))
	r.settle()
	r.advance(time.Second)
	want := []Session{
		{State: "header", Age: 3 * time.Second, Idle: 3 * time.Second, Buffered: 16}, // 10 bytes, allocated as 16
		{State: "dialling", Version: 1, Client: client4, Destination: dest4, Backend: serverA,
			Age: 2 * time.Second, Idle: 2 * time.Second},
		{State: "relaying", Version: 2, Authority: "a.example\xff", Client: client4, Destination: dest4,
			Backend: serverA, BytesIn: 5, BytesOut: 7, Age: time.Second, Idle: time.Second},
	}
	got := r.sessions()
	if len(got) != len(want) {
		t.Fatalf("sessions %+v", got)
	}
	ids := map[uint64]bool{}
	for _, s := range got {
		if ids[s.ID] = true; s.ID == 0 {
			t.Error("a session has no id")
		}
		found := false
		for _, w := range want {
			w.ID, w.Forward, w.Listener, w.Peer = s.ID, "forward", "front", lb
			found = found || s == w
		}
		if !found {
			t.Errorf("unexpected session %+v", s)
		}
	}
	if len(ids) != len(want) {
		t.Errorf("%d ids for %d sessions", len(ids), len(want))
	}
	from.reset()
	r.settle()
	if got := r.sessions(); len(got) != 2 {
		t.Errorf("sessions after one has ended: %+v", got)
	}
}

// A loop describes a bounded number of sessions at once, and omits none.
func TestEachSessionInSteps(t *testing.T) {
	r := newRig(t, newScript(t, 0), Config{Loops: 3, Forwards: []*forward.Forward{plainForward(serverA)}})
	const n = 3*snapshotStep + 100
	for range n {
		r.open(header)
	}
	for range 50 { // leave gaps
		r.dials[len(r.records)].far.reset()
		r.settle()
	}
	most := 0
	for _, l := range r.engine.loops {
		for at, more := 0, true; more; {
			var all []Session
			all, more = l.snapshots(nil, &at)
			most = max(most, len(all))
		}
	}
	if most > snapshotStep {
		t.Errorf("%d sessions in one step", most)
	}
	ids := map[uint64]bool{}
	for _, s := range r.sessions() {
		ids[s.ID] = true
	}
	if len(ids) != n-50 {
		t.Errorf("%d sessions were reported, want %d", len(ids), n-50)
	}
}

// The operator can reset a session in every phase, and it releases everything.
func TestResetByOperator(t *testing.T) {
	for _, tt := range []struct {
		name  string
		phase record.Phase
		open  func(*rig) *file
	}{
		{"header", record.Header, func(r *rig) *file { return r.open(header[:10]) }},
		{"dial", record.Dial, func(r *rig) *file {
			r.plans[serverA] = []plan{silent}
			return r.open(header)
		}},
		{"relay", record.Relay, func(r *rig) *file { return r.open(header + "hello") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, newScript(t, 0), Config{Loops: 2, Forwards: []*forward.Forward{plainForward(serverA)}})
			for range 2*snapshotStep + 10 {
				r.open(header)
			}
			before := map[uint64]bool{}
			for _, s := range r.sessions() {
				before[s.ID] = true
			}
			front := tt.open(r)
			var id uint64
			for _, s := range r.sessions() {
				if !before[s.ID] {
					id = s.ID
				}
			}
			if found, err := r.engine.Reset(t.Context(), id); !found || err != nil {
				t.Fatalf("found %v, %v", found, err)
			}
			r.settle()
			c := r.expectEnd(1, record.Reset, tt.phase, record.Gateway)
			if c.ID != id || c.Reason != "cut by the operator" {
				t.Errorf("ended: %+v; want connection %d", c, id)
			}
			if !front.gotRST {
				t.Error("the peer got no RST")
			}
			if found, err := r.engine.Reset(t.Context(), id); found || err != nil {
				t.Errorf("second Reset: found %v, %v", found, err)
			}
			r.engine.Cut()
			r.settle()
			r.expectClean()
		})
	}
}

// Sessions are queried and reset while the loops run. This test is for the race detector.
func TestRealEachSessionUnderLoad(t *testing.T) {
	backend := listen(t, "tcp", "127.0.0.1:0")
	l := startReal(t, loopback(forward.Endpoint{Addr: netip.MustParseAddrPort(backend.Addr().String())}))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := l.EachSession(context.Background(), func(s *Session) {
				if _, err := l.Reset(context.Background(), s.ID); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Error(err)
			}
			runtime.Gosched()
		}
	})
	for range 50 {
		// an error means that it was reset already
		if conn, err := net.Dial("tcp", l.Bound()[0].Addr.String()); err == nil {
			defer conn.Close()
		}
		l.expectRecord(record.Reset, record.Gateway)
	}
	close(stop)
	asking.Wait()
}

// BenchmarkSnapshots measures how long one step of a query keeps a loop from its work.
func BenchmarkSnapshots(b *testing.B) {
	r := newForwardRig(b, plainForward(serverA))
	for range snapshotStep {
		r.open(header)
	}
	all := make([]Session, 0, snapshotStep)
	b.ReportAllocs()
	for b.Loop() {
		at := 0
		if all, _ = r.loop().snapshots(all[:0], &at); len(all) != snapshotStep {
			b.Fatal(len(all))
		}
	}
}
