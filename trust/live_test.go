package trust

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"unproxy/integration_test/allocations"
)

func TestLive(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	var l Live
	if l.Contains(addr) || l.Set().Len() != 0 {
		t.Error("the zero value trusts an address")
	}
	set := NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}})
	l.Replace(set)
	if !l.Contains(addr) || l.Set() != set {
		t.Error("Replace has no effect")
	}
	if !NewLive(set).Contains(addr) {
		t.Error("NewLive ignores its set")
	}
	if !l.Admit(addr, 3) || set.Hits()[0].Hits != 1 {
		t.Error("Admit does not count in the current set")
	}
	l.Replace(nil)
	if l.Contains(addr) || l.Admit(addr, 0) {
		t.Error("a nil set trusts an address")
	}
}

// Concurrent queries see one set or the other. Run it with -race.
func TestLiveReplaceIsConcurrent(t *testing.T) {
	both := netip.MustParseAddr("10.0.0.1")
	sets := []*Set{
		NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}),
		NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/16")}}),
	}
	l := NewLive(sets[0])
	var queries sync.WaitGroup
	for range 4 {
		queries.Go(func() {
			for range 10_000 {
				if !l.Contains(both) {
					t.Error("an address in both sets is not trusted")
					return
				}
			}
		})
	}
	for i := range 1000 {
		l.Replace(sets[i%2])
	}
	queries.Wait()
}

func TestLiveDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	l, addr := NewLive(NewSet(randomRules(r, 10_000))), randomAddr(r)
	if n := allocations.PerRun(1000, func() { l.Contains(addr); l.Admit(addr, 0) }); n != 0 {
		t.Errorf("%v allocations per lookup, want none", n)
	}
}
