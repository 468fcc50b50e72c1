package trust

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
)

// TestHitsMatchScan compares the counters with a linear scan, for callers with
// shards of their own and a shared one.
func TestHitsMatchScan(t *testing.T) {
	rules := randomRules(rand.New(rand.NewPCG(3, 4)), 200)
	rules = append(rules, rules[0]) // redundant: never counts
	set := NewSet(rules)
	const callers = 4
	var all sync.WaitGroup
	counted := [callers][]uint64{}
	for caller := range callers {
		counted[caller] = make([]uint64, len(rules))
		all.Go(func() {
			r := rand.New(rand.NewPCG(5, uint64(caller)))
			for i := range 5000 {
				a := randomAddr(r)
				want, trusted := lookupByScan(rules, a)
				if set.Admit(a, caller*(i%2)+shards*(i%3)) != trusted {
					t.Errorf("Admit(%v) = %v", a, !trusted)
				}
				if trusted {
					counted[caller][slices.IndexFunc(rules, func(r Rule) bool { return r.Prefix == want.Prefix })]++
				}
			}
		})
	}
	all.Wait()
	want := make([]RuleHits, len(rules))
	for i, r := range set.Rules() {
		want[i].Rule = r
		for _, counts := range counted {
			want[i].Hits += counts[i]
		}
	}
	if got := set.Hits(); !slices.Equal(got, want) {
		t.Errorf("hits %v; want %v", got, want)
	}
}

func TestHitsOfNilSet(t *testing.T) {
	var none *Set
	a := netip.MustParseAddr("192.0.2.1")
	if none.Admit(a, 0) || none.Hits() != nil {
		t.Error("a nil set admits an address")
	}
	set := NewSet([]Rule{{Prefix: netip.MustParsePrefix("fe80::/10")}})
	if set.Admit(netip.MustParseAddr("fe80::1%eth0"), 0) || set.Admit(a, 0) || set.Hits()[0].Hits != 0 {
		t.Errorf("an address with a zone is admitted or counted: %v", set.Hits())
	}
}

// Of two loops that use a shard for the first time, both count in the same counters.
func TestShardIsAllocatedOnce(t *testing.T) {
	var h hits
	first := h.allocate(3, 1)
	if again := h.allocate(3, 1); again != first || h[3].Load() != first {
		t.Error("a shard was allocated twice")
	}
	if n := len(*first); n < minShardCounters {
		t.Errorf("a shard has %d counters", n)
	}
}
