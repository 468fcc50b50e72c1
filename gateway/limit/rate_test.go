package limit

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"unproxy/gateway/forward"
	"unproxy/integration_test/allocations"
)

var (
	peerA = netip.MustParseAddr("192.0.2.1")
	peerB = netip.MustParseAddr("203.0.113.9")
	peerC = netip.MustParseAddr("2001:db8::9")
)

// bucket is the oracle: a token bucket with fractional tokens.
type bucket struct {
	tokens float64
	at     int64
}

func (b *bucket) allow(r forward.Rate, now int64) bool {
	b.tokens = min(float64(r.Burst), b.tokens+float64(now-b.at)/1e9*float64(r.PerSecond))
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Over a long run of random peers and pauses, the limiter allows as many connections as the oracle,
// except for rounding.
func TestRatesAgainstTokenBuckets(t *testing.T) {
	for _, rate := range []forward.Rate{{PerSecond: 1, Burst: 1}, {PerSecond: 5, Burst: 20},
		{PerSecond: 100, Burst: 1}, {PerSecond: 1000, Burst: 50}, {PerSecond: 100_000, Burst: 100}} {
		random := rand.New(rand.NewPCG(3, 4))
		r, oracle := NewRates(rate), map[netip.Addr]*bucket{}
		peers := make([]netip.Addr, 40)
		for i := range peers {
			peers[i] = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			oracle[peers[i]] = &bucket{tokens: float64(rate.Burst)}
		}
		got, want, now := 0, 0, int64(0)
		for range 200_000 {
			// All peers together connect at four times the allowed rate.
			now += random.Int64N(2 * int64(time.Second) / int64(rate.PerSecond) / int64(len(peers)) / 4)
			p := peers[random.IntN(len(peers))]
			if r.Allow(p, now) {
				got++
			}
			if oracle[p].allow(rate, now) {
				want++
			}
		}
		if diff := float64(got-want) / float64(want); diff > 0.03 || diff < -0.03 || want < 10_000 {
			t.Errorf("%+v: allowed %d, the oracle %d", rate, got, want)
		}
	}
}

// The event loops read the clock at different times. A peer whose connections they get in turn has its
// burst, and no more.
func TestRatesWithClocksBehind(t *testing.T) {
	for burst := 1; burst <= 4; burst++ {
		r := NewRates(forward.Rate{PerSecond: 1, Burst: burst})
		const now = int64(time.Hour)
		clocks := [...]int64{now, now - int64(10*time.Millisecond), now - int64(time.Millisecond)}
		for i := range 3 * burst {
			if got, want := r.Allow(peerA, clocks[i%len(clocks)]), i < burst; got != want {
				t.Errorf("connection %d with a burst of %d: %v, want %v", i, burst, got, want)
			}
		}
	}
}

func TestRatesBurst(t *testing.T) {
	peer, other := peerA, peerB
	r := NewRates(forward.Rate{PerSecond: 2, Burst: 3})
	now := int64(time.Hour)
	for i, want := range []bool{true, true, true, false, false} {
		if got := r.Allow(peer, now); got != want {
			t.Errorf("connection %d at once: %v, want %v", i+1, got, want)
		}
	}
	if !r.Allow(other, now) {
		t.Error("another peer was refused")
	}
	now += int64(500 * time.Millisecond)
	if !r.Allow(peer, now) || r.Allow(peer, now) {
		t.Error("half a second later: want exactly one more connection")
	}
	now += int64(time.Minute)
	for i, want := range []bool{true, true, true, false} {
		if got := r.Allow(peer, now); got != want {
			t.Errorf("connection %d after a minute: %v, want %v", i+1, got, want)
		}
	}
}

// After the time has wrapped, a peer that was not seen meanwhile has its share again within the
// time of a burst.
func TestRatesClockWraps(t *testing.T) {
	r := NewRates(forward.Rate{PerSecond: 1, Burst: 2})
	now := int64(time.Hour)
	period := int64(rateUnit) << rateTimeBits
	for range 5 {
		r.Allow(peerA, now)
		now += period - int64(time.Second)
		if r.Allow(peerA, now) != true && r.Allow(peerA, now+int64(2*time.Second)) != true {
			t.Fatal("a peer was refused for longer than a burst")
		}
	}
}

// A million addresses take no more memory than one. None of them gets more than its share while it
// is remembered, and a peer that is far over its share is not forgotten for them.
func TestRatesAreBounded(t *testing.T) {
	if size := unsafe.Sizeof(Rates{}); size > 129<<10 {
		t.Errorf("the table takes %d bytes", size)
	}
	r := NewRates(forward.Rate{PerSecond: 1, Burst: 10})
	now := int64(time.Hour)
	for r.Allow(peerA, now) {
	}
	for i := range 1_000_000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if !r.Allow(a, now) {
			t.Fatalf("address %v was refused because of others", a)
		}
	}
	if r.Allow(peerA, now) {
		t.Error("a peer that is over its share was forgotten")
	}
	if n := allocations.PerRun(1000, func() { r.Allow(peerC, now) }); n != 0 {
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
		if got := Subscriber(netip.MustParseAddr(in)); got != netip.MustParseAddr(want) {
			t.Errorf("%s counts as %s, want %s", in, got, want)
		}
	}
	if got := Subscriber(netip.Addr{}); got.IsValid() {
		t.Errorf("no address counts as %v", got)
	}
}

// An attack from a million addresses takes no more memory than the table, neither lets a
// client that connects too often go on, nor refuses one that is within its rate.
func TestClientRatesUnderAttack(t *testing.T) {
	const attackers = 1_000_000
	r := NewClientRates(forward.Rate{PerSecond: 10, Burst: 20})
	if size := len(r.sets) * int(unsafe.Sizeof(r.sets[0])); size != 2<<20 {
		t.Errorf("the table takes %d bytes, want 2 MiB as documented", size)
	}
	busy, quiet := peerA, peerB
	now, admitted, spread := int64(time.Hour), 0, 0
	const step = int64(10 * time.Microsecond) // ten seconds in all
	for i := range attackers {
		now += step
		if r.Allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now) {
			spread++
		}
		if i%100 == 0 && r.Allow(busy, now) { // a thousand a second
			admitted++
		}
		if i%20_000 == 0 && !r.Allow(quiet, now) { // five a second
			t.Fatalf("after %d attackers a client within its rate was refused", i)
		}
	}
	if most := 20 + 10*10 + 5; admitted > most {
		t.Errorf("the busy client got %d of 10000 connections, want at most %d", admitted, most)
	}
	if spread != attackers {
		t.Errorf("%d of %d clients with one connection each were served", spread, attackers)
	}
}

func BenchmarkClientRates(b *testing.B) {
	r := NewClientRates(forward.Rate{PerSecond: 10, Burst: 20})
	i := 0
	for b.Loop() {
		i++
		r.Allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), int64(i)*int64(time.Microsecond))
	}
}
