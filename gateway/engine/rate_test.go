package engine

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
)

// bucket is the naive twin: tokens that are counted in fractions.
type bucket struct {
	tokens float64
	at     int64
}

func (b *bucket) allow(r Rate, now int64) bool {
	b.tokens = min(float64(r.Burst), b.tokens+float64(now-b.at)/1e9*float64(r.PerSecond))
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Over a long run of random peers and pauses a peer is let through as often as
// the naive bucket says, but for the rounding of its time.
func TestRatesLikeBuckets(t *testing.T) {
	for _, rate := range []Rate{{1, 1}, {5, 20}, {100, 1}, {1000, 50}, {100_000, 100}} {
		random := rand.New(rand.NewPCG(3, 4))
		r, naive := newRates(rate), map[netip.Addr]*bucket{}
		peers := make([]netip.Addr, 40)
		for i := range peers {
			peers[i] = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			naive[peers[i]] = &bucket{tokens: float64(rate.Burst)}
		}
		got, want, now := 0, 0, int64(0)
		for range 200_000 {
			// The peers together come four times as often as they may.
			now += random.Int64N(2 * int64(time.Second) / int64(rate.PerSecond) / int64(len(peers)) / 4)
			p := peers[random.IntN(len(peers))]
			if r.allow(p, now) {
				got++
			}
			if naive[p].allow(rate, now) {
				want++
			}
		}
		if diff := float64(got-want) / float64(want); diff > 0.03 || diff < -0.03 || want < 10_000 {
			t.Errorf("%+v: let through %d, the naive bucket %d", rate, got, want)
		}
	}
}

func TestRatesBurst(t *testing.T) {
	peer, other := lb.Addr(), client4.Addr()
	r := newRates(Rate{PerSecond: 2, Burst: 3})
	now := int64(time.Hour)
	for i, want := range []bool{true, true, true, false, false} {
		if got := r.allow(peer, now); got != want {
			t.Errorf("connection %d at once: %v, want %v", i+1, got, want)
		}
	}
	if !r.allow(other, now) {
		t.Error("another peer is held up")
	}
	now += int64(500 * time.Millisecond)
	if !r.allow(peer, now) || r.allow(peer, now) {
		t.Error("after half a second there is to be one more, and no second one")
	}
	now += int64(time.Minute)
	for i, want := range []bool{true, true, true, false} {
		if got := r.allow(peer, now); got != want {
			t.Errorf("connection %d after a minute: %v, want %v", i+1, got, want)
		}
	}
}

// The time comes round; a peer that was not seen meanwhile has its share again
// within a burst.
func TestRatesClockComesRound(t *testing.T) {
	r := newRates(Rate{PerSecond: 1, Burst: 2})
	now := int64(time.Hour)
	period := int64(rateUnit) << rateTimeBits
	for range 5 {
		r.allow(lb.Addr(), now)
		now += period - int64(time.Second)
		if r.allow(lb.Addr(), now) != true && r.allow(lb.Addr(), now+int64(2*time.Second)) != true {
			t.Fatal("a peer is held up for longer than a burst")
		}
	}
}

// A million addresses take no more room than one, nobody of them is let through
// more often than its share while it is remembered, and a peer that is far over
// its share is not forgotten for them.
func TestRatesAreBounded(t *testing.T) {
	if size := unsafe.Sizeof(rates{}); size > 129<<10 {
		t.Errorf("the table takes %d bytes", size)
	}
	r := newRates(Rate{PerSecond: 1, Burst: 10})
	now := int64(time.Hour)
	for r.allow(lb.Addr(), now) {
	}
	for i := range 1_000_000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if !r.allow(a, now) {
			t.Fatalf("address %v is held up for others", a)
		}
	}
	if r.allow(lb.Addr(), now) {
		t.Error("the one that is over its share was forgotten for others")
	}
	if n := allocations.PerRun(1000, func() { r.allow(client6.Addr(), now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSubscriber(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":                "192.0.2.1",
		"2001:db8:0:1:2:3:4:5":     "2001:db8:0:1::",
		"2001:db8:0:1:ffff::":      "2001:db8:0:1::",
		"2001:db8:0:2::1":          "2001:db8:0:2::",
		"fe80::1%eth0":             "fe80::",
		"::1":                      "::",
		"64:ff9b::192.0.2.1":       "64:ff9b::192.0.2.1",
		"64:ff9b:1::192.0.2.1":     "64:ff9b:1::",
		"2001:db8:ffff:ffff::dead": "2001:db8:ffff:ffff::",
	} {
		if got := subscriber(netip.MustParseAddr(in)); got != netip.MustParseAddr(want) {
			t.Errorf("%s counts as %s, want %s", in, got, want)
		}
	}
	if got := subscriber(netip.Addr{}); got.IsValid() {
		t.Errorf("no address counts as %v", got)
	}
}

// Beyond the rate a peer is reset; what it has goes on, strangers do not count,
// and neither do those on a unix socket or health checks.
func TestAcceptRate(t *testing.T) {
	f := plain(serverA)
	f.AcceptRate = Rate{PerSecond: 1, Burst: 2}
	checker := netip.MustParseAddrPort("192.0.2.3:1")
	f.Health = only(checker)
	r := one(t, f)
	first := r.open(header)
	r.open(header)
	r.open(header)
	c := r.ends(1, record.Limit, record.Trust, record.Gateway)
	if c.Reason == "" || c.Peer != lb {
		t.Errorf("%+v", c)
	}
	for range 5 {
		r.openFrom(0, netip.AddrPort{}, header)
		r.openFrom(0, checker, "").finish()
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
	if limits != 1 || len(r.dials) != 2+5 || string(r.dials[0].far.got) != "goes on" {
		t.Errorf("%d were over the rate, %d served", limits, len(r.dials))
	}
	r.pass(time.Second)
	r.open(header)
	if len(r.dials) != 8 {
		t.Error("a second later it may not connect")
	}
	r.engine.Cut()
	r.settle()
	r.clean()
}

// A client with a whole /64 is one client.
func TestPerClientCountsSubscribers(t *testing.T) {
	f := plain(serverA6)
	f.MaxConnectionsPerClient = 1
	r := one(t, f)
	for i, from := range []string{"[2001:db8::9]:1", "[2001:db8::a]:2", "[2001:db8:0:1::9]:3"} {
		r.open(v2(netip.MustParseAddrPort(from), destiny6))
		if want := []int{0, 1, 1}[i]; len(r.records) != want {
			t.Errorf("%s: %d were refused, want %d", from, len(r.records), want)
		}
	}
	r.engine.Cut()
	r.settle()
	r.clean()
}
