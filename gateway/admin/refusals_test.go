package admin

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
)

// peer returns the address of the n-th load balancer.
func peer(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), uint16(1000+n))
}

func TestRefusals(t *testing.T) {
	clock := noon
	r := NewRefusals(func() time.Time { clock = clock.Add(time.Second); return clock })
	client := netip.MustParseAddrPort("203.0.113.9:4711")
	otherPort := netip.AddrPortFrom(peer(1).Addr(), 9)
	for _, c := range []record.Connection{
		{Outcome: record.OK, Peer: peer(1)}, // not a refusal, like the next one
		{Outcome: record.Reset, Peer: peer(1)},
		{Outcome: record.NotProxy, Peer: peer(1), Forward: ":25", Reason: "no PROXY signature", Sample: "GET / HTTP/1.1\r\n"},
		{Outcome: record.NotProxy, Peer: peer(1), Forward: ":26", Reason: "no PROXY signature"},
		{Outcome: record.BackendRefused, Peer: peer(2), Client: client, Action: "systemctl start db"},
		{Outcome: record.NotProxy, Peer: otherPort, Forward: ":25", Reason: "no PROXY signature", Sample: "EHLO"},
		{Outcome: record.Limit, Forward: "unix:/s"},
	} {
		r.Note(&c)
	}
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	want := []Refusal{
		{Peer: "unix", Forward: "unix:/s", Outcome: "limit", Count: 1, First: at(5), Last: at(5)},
		{Peer: "10.0.0.1", Forward: ":25", Outcome: "not_proxy", Reason: "no PROXY signature",
			Count: 2, First: at(1), Last: at(4), Sample: `"EHLO"`},
		{Peer: "10.0.0.2", Outcome: "backend_refused", Action: "systemctl start db",
			Client: "203.0.113.9:4711", Count: 1, First: at(3), Last: at(3)},
		{Peer: "10.0.0.1", Forward: ":26", Outcome: "not_proxy", Reason: "no PROXY signature",
			Count: 1, First: at(2), Last: at(2)},
	}
	got, missed := r.List()
	if len(got) != len(want) || missed != 0 {
		t.Fatalf("listed %+v, missed %d; want %d groups", got, missed, len(want))
	}
	for i := range want {
		if got[i].Meaning == "" || got[i].Hint == "" {
			t.Errorf("%+v has no meaning or no hint", got[i])
		}
		got[i].Meaning, got[i].Hint = "", ""
		if got[i] != want[i] {
			t.Errorf("%d: %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

// Denied clients are told apart although they share a peer, and are counted together
// although their peers differ. Other outcomes, and a header without a client, are the
// peer's.
func TestRefusalsOfClients(t *testing.T) {
	r := NewRefusals(nil)
	client := func(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }
	for _, c := range []record.Connection{
		{Outcome: record.ClientDenied, Peer: peer(1), Client: client("203.0.113.9:1")},
		{Outcome: record.ClientDenied, Peer: peer(1), Client: client("[2001:db8::9]:1")},
		{Outcome: record.ClientDenied, Peer: peer(2), Client: client("203.0.113.9:2")},
		{Outcome: record.ClientDenied, Client: client("203.0.113.9:3")}, // on a unix socket
		{Outcome: record.ClientDenied, Peer: peer(1)},
		{Outcome: record.ClientDenied, Peer: client("203.0.113.9:1")}, // a peer with that address
		{Outcome: record.SourceDenied, Peer: peer(1), Client: client("203.0.113.9:1")},
		{Outcome: record.SourceDenied, Peer: peer(1), Client: client("203.0.113.8:1")},
	} {
		r.Note(&c)
	}
	type group struct {
		outcome, peer, client string
		byClient              bool
		count                 uint64
	}
	want := []group{
		{"client_denied", "unix", "203.0.113.9:3", true, 3},
		{"client_denied", "10.0.0.1", "[2001:db8::9]:1", true, 1},
		{"client_denied", "10.0.0.1", "", false, 1},
		{"client_denied", "203.0.113.9", "", false, 1},
		{"source_denied", "10.0.0.1", "203.0.113.8:1", false, 2},
	}
	all, _ := r.List()
	var got []group
	for _, g := range all {
		got = append(got, group{g.Outcome, g.Peer, g.Client, g.ByClient, g.Count})
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%+v is missing in %+v", w, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d groups, want %d", len(got), len(want))
	}
}

// A flood of one outcome displaces only groups of that outcome, and memory is
// bounded.
func TestFloodOfRefusals(t *testing.T) {
	clock := noon
	r := NewRefusals(func() time.Time { clock = clock.Add(time.Millisecond); return clock })
	r.Note(&record.Connection{Outcome: record.NoReturnPath, Peer: peer(1)})
	for i := range 10_000 {
		r.Note(&record.Connection{Outcome: record.Untrusted, Peer: peer(i)})
	}
	got, _ := r.List()
	if len(got) != refusalsKept+1 {
		t.Fatalf("%d groups, want %d", len(got), refusalsKept+1)
	}
	if last := got[len(got)-1]; last.Outcome != "no_return_path" {
		t.Errorf("the rare outcome is lost; the oldest group is %+v", last)
	}
	for i, g := range got[:refusalsKept] {
		if want := peer(9999 - i).Addr().String(); g.Peer != want {
			t.Errorf("group %d has peer %s; want %s", i, g.Peer, want)
		}
	}
}

func TestNoteDoesNotAllocate(t *testing.T) {
	r := NewRefusals(nil)
	const sample = "GET / HTTP/1.1\r\n"
	i := 0
	if n := allocations.PerRun(1000, func() {
		i++
		r.Note(&record.Connection{
			Outcome: record.NotProxy, Peer: peer(i % 100), Reason: "no PROXY signature", Sample: sample,
		})
		r.Note(&record.Connection{Outcome: record.OK})
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// Connections noted concurrently are counted in a group or as missed.
func TestNoteConcurrently(t *testing.T) {
	r := NewRefusals(nil)
	var all sync.WaitGroup
	const each = 2000
	for i := range 4 {
		all.Go(func() {
			for range each {
				r.Note(&record.Connection{Outcome: record.Untrusted, Peer: peer(i)})
			}
		})
	}
	all.Go(func() {
		for range 100 {
			r.List()
		}
	})
	all.Wait()
	got, counted := r.List()
	for _, g := range got {
		counted += g.Count
	}
	if counted != 4*each {
		t.Errorf("%d of %d connections are counted", counted, 4*each)
	}
}

// BenchmarkNote measures the cost of a refusal for an event loop beyond its log
// line, with one peer and with many.
func BenchmarkNote(b *testing.B) {
	for _, peers := range []int{1, 1000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			r := NewRefusals(nil)
			c := record.Connection{Outcome: record.Untrusted}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.Peer = peer(i % peers)
				r.Note(&c)
			}
		})
	}
}
