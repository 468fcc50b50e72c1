package engine

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// expectTallies compares the tallies with the records, which are the oracle. All connections must
// have ended.
func (r *rig) expectTallies() {
	r.Helper()
	all, err := r.engine.Tallies(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	var got record.Tally
	for i := range all {
		got.Add(&all[i].Tally)
	}
	want := r.tallyRecords()
	want.Headers, want.PortFallbacks = got.Headers, got.PortFallbacks // not in the records
	if n := headersOf(&got); n != total(&got.HeaderTime) {
		r.Errorf("%d headers, but %d header times", n, total(&got.HeaderTime))
	}
	alignHistogram(r, "header", &got.HeaderTime, &want.HeaderTime)
	alignHistogram(r, "connect", &got.ConnectTime, &want.ConnectTime)
	alignHistogram(r, "duration", &got.Duration, &want.Duration)
	if got != want {
		r.Errorf("tallies %+v\nrecords %+v", got, want)
	}
}

// tallyRecords computes a tally from the records.
func (r *rig) tallyRecords() (t record.Tally) {
	for i := range r.records {
		c := &r.records[i]
		t.Accepted++
		t.End(c.Command, c.Outcome, c.Phase, c.Duration)
		t.Bytes[record.In] += uint64(c.BytesIn)
		t.Bytes[record.Out] += uint64(c.BytesOut)
		if c.HeaderTime > 0 {
			t.ObserveHeader(c.HeaderTime)
		}
		if c.ConnectTime > 0 {
			t.ObserveConnect(c.ConnectTime)
		}

	}
	return t
}

// alignHistogram checks that the sums of two histograms differ only by rounding, and copies what
// may differ from want to got: the sum, and the count of times of zero, which the records do not
// distinguish from no time.
func alignHistogram(t testing.TB, what string, got, want *record.Histogram) {
	t.Helper()
	if d := got.Seconds - want.Seconds; d > 1e-6 || d < -1e-6 {
		t.Errorf("%s: sum %v s, want %v", what, got.Seconds, want.Seconds)
	}
	got.Seconds = want.Seconds
	if got.Counts[0] > want.Counts[0] {
		got.Counts[0] = want.Counts[0]
	}
}

func headersOf(t *record.Tally) (n uint64) {
	for _, of := range t.Headers {
		n += of
	}
	return n
}

func total(h *record.Histogram) (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

func TestHeaderKinds(t *testing.T) {
	for _, tt := range []struct {
		sends            string
		version, command string
	}{
		{header, "1", "proxy"},
		{"PROXY UNKNOWN\r\n", "1", "unknown"},
		{v2(client4, dest4), "2", "proxy"},
		{v2(netip.AddrPort{}, netip.AddrPort{}), "2", "local"},
		{"\r\n\r\n\x00\r\nQUIT\n\x21\x00\x00\x00", "2", "unknown"}, // UNSPEC
	} {
		r := newForwardRig(t, plainForward(serverA))
		r.open(tt.sends)
		got := r.tally().Headers
		for kind := range record.NumHeaderKinds {
			want := uint64(0)
			if kind.Version() == tt.version && kind.Command().String() == tt.command {
				want = 1
			}
			if got[kind] != want {
				t.Errorf("%q: %d headers of version %s, command %s; want %d", tt.sends, got[kind],
					kind.Version(), kind.Command(), want)
			}
		}
	}
}

// Bytes are counted while they flow, copied or spliced. Each forward has its own tally, for all its
// listeners and loops.
func TestTalliesPerForward(t *testing.T) {
	first, second := plainForward(serverA), plainForward(serverB)
	first.Name = "first"
	first.Listeners = append(first.Listeners, forward.Listener{Name: "beside",
		Endpoint: forward.Endpoint{Addr: netip.MustParseAddrPort("192.0.2.80:81")},
		Backends: first.Listeners[0].Backends})
	second.Listeners[0].Name = "behind"
	second.Listeners[0].Endpoint.Addr = netip.MustParseAddrPort("192.0.2.80:82")
	k := newScript(t, 0)
	k.sendRoom = 1 << 30
	r := newRig(t, k, Config{Loops: 3, Forwards: []*forward.Forward{first, second}})
	var fronts []*file
	for i := range 9 {
		fronts = append(fronts, r.openFrom(i%3, lb, header))
	}
	data := randomBytes(1 << 20)
	for range 8 {
		fronts[0].deliver(data)
		r.settle()
	}
	fronts[2].deliver(data[:3])
	r.settle()
	if !fronts[0].isOpen || len(r.dials[0].far.received) != 8<<20 {
		t.Fatalf("%d bytes arrived", len(r.dials[0].far.received))
	}
	r.openFrom(2, netip.MustParseAddrPort("203.0.113.1:1"), header)
	all, err := r.engine.Tallies(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatal(len(all), err)
	}
	for i, want := range []struct {
		name             string
		active           int
		accepted, bytes  uint64
		connects, denied uint64
	}{{"first", 6, 6, 8 << 20, 6, 0}, {"behind", 3, 4, 3, 3, 1}} {
		got := &all[i]
		if got.Name != want.name || got.Active != want.active || got.Accepted != want.accepted ||
			got.Bytes[record.In] != want.bytes || got.Bytes[record.Out] != 0 {
			t.Errorf("forward %q: %d active of %d, %d bytes in, %d out; want %+v", got.Name, got.Active,
				got.Accepted, got.Bytes[record.In], got.Bytes[record.Out], want)
		}
		if total(&got.ConnectTime) != want.connects || got.Closed[record.Untrusted][record.Trust] != want.denied {
			t.Errorf("forward %q: %d connects, %d untrusted; want %+v", got.Name, total(&got.ConnectTime),
				got.Closed[record.Untrusted][record.Trust], want)
		}
	}
}

// countingSet counts its calls by loop.
type countingSet struct {
	prefixes
	loops map[int]int
}

func (c countingSet) Admit(a netip.Addr, loop int) bool {
	c.loops[loop]++
	return c.Contains(a)
}

func TestTrustReceivesLoopIndex(t *testing.T) {
	f := plainForward(serverA)
	c := countingSet{only(lb), map[int]int{}}
	f.Trust = c
	r := newRig(t, newScript(t, 0), Config{Loops: 2, Forwards: []*forward.Forward{f}})
	for range 4 {
		r.open(header)
	}
	r.openFrom(0, netip.MustParseAddrPort("203.0.113.1:1"), header)
	if c.loops[0]+c.loops[1] != 5 || c.loops[0] < 2 || c.loops[1] < 2 {
		t.Errorf("calls by loop: %v", c.loops)
	}
	if len(r.records) != 1 || r.records[0].Outcome != record.Untrusted {
		t.Errorf("ended: %+v", r.records)
	}
}

// Tallies works before the loops run, while they do and after they have ended. This test is for the
// race detector.
func TestTalliesAtAnyTime(t *testing.T) {
	backend := listen(t, "tcp", "127.0.0.1:0")
	l := newReal(t, loopback(forward.Endpoint{Addr: netip.MustParseAddrPort(backend.Addr().String())}))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 3 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := l.Tallies(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	l.Start()
	for range 20 {
		l.dial(0, "GET / HTTP/1.0\r\n\r\n")
		l.expectRecord(record.NotProxy, record.Peer)
	}
	l.Close()
	close(stop)
	asking.Wait()
	all, err := l.Tallies(t.Context())
	if err != nil || all[0].Accepted != 20 || all[0].Closed[record.NotProxy][record.Header] != 20 {
		t.Errorf("after the end: %+v, %v", all, err)
	}
}

// Tallies does not wait for a loop that does not answer.
func TestTalliesContextCancelled(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.engine.lifecycle.running = true // though no goroutine runs the loop
	ctx, cancel := context.WithCancelCause(t.Context())
	late := errors.New("too late")
	cancel(late)
	if _, err := r.engine.Tallies(ctx); !errors.Is(err, late) {
		t.Errorf("error %v, want the cause of the context", err)
	}
	r.settle() // discards the answer
}

func TestKindOfCoversDecoder(t *testing.T) {
	for _, version := range []uint8{1, 2} {
		for _, result := range []proxyproto.Result{proxyproto.Proxy, proxyproto.Local, proxyproto.Unknown} {
			if version == 1 && result == proxyproto.Local {
				continue // version 1 has no LOCAL
			}
			k := kindOf(&proxyproto.Header{Version: version, Result: result})
			if k.Command().String() != result.String() || k.Version() != string('0'+rune(version)) {
				t.Errorf("version %d %v is counted as %s %s", version, result, k.Version(), k.Command())
			}
		}
	}
}
