// Package limit counts events per address: how often a peer connects, and how many connections a
// client has. Its memory is bounded for any number of addresses.
package limit

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"unproxy/gateway/forward"
)

const (
	// A table of peers takes 128 KiB and holds 16 384 of them.
	peerSets = 4096
	// A table of clients takes 2 MiB and holds 262 144 of them: there are more clients than
	// load balancers.
	clientSets = 65536
	rateWays   = 4
)

const (
	// An entry is one word: a 24-bit tag that distinguishes the peers of a set, and the time up to
	// which the peer has used its share, in units of 256 ns. The time wraps every 78 hours. After
	// that, a stale entry may refuse its peer once, for at most the time of a burst.
	rateTimeBits = 40
	rateTimeMask = 1<<rateTimeBits - 1
	rateUnit     = 256 * time.Nanosecond
)

// Rates limits how often each peer, or each client, connects. It keeps one time per peer (the
// generic cell rate algorithm, ITU-T I.371 annex A) in a table of fixed size. If more peers are
// active than fit, it forgets the one that is closest to its full share, which allows too much
// rather than too little. It is safe for concurrent use, without locks. A nil *Rates is no limit.
type Rates struct {
	interval int64 // units per connection
	most     int64 // units that a peer may be ahead
	seed     maphash.Seed
	sets     [][rateWays]atomic.Uint64 // a power of two of them
	latest   atomic.Int64              // time of any call, in nanoseconds
}

// NewRates returns the limiter of peers for a rate; nil if PerSecond is 0 or less. A Burst below 1
// counts as 1.
func NewRates(r forward.Rate) *Rates { return newRates(r, peerSets) }

// NewClientRates is NewRates for clients, with a larger table.
func NewClientRates(r forward.Rate) *Rates { return newRates(r, clientSets) }

func newRates(r forward.Rate, sets int) *Rates {
	if r.PerSecond <= 0 {
		return nil
	}
	interval := max(1, int64(time.Second/rateUnit)/int64(r.PerSecond))
	return &Rates{
		interval: interval, most: interval * int64(max(1, r.Burst)),
		seed: maphash.MakeSeed(), sets: make([][rateWays]atomic.Uint64, sets),
	}
}

// Allow counts a connection of a peer and reports whether the rate allows it. now is a time of the
// kernel's clock, in nanoseconds; one before that of another call counts as that one, because the
// event loops read the clock at different times. An invalid address, a peer on a unix socket, is
// always allowed.
func (r *Rates) Allow(peer netip.Addr, now int64) bool {
	if r == nil || !peer.IsValid() {
		return true
	}
	key := Subscriber(peer).As16()
	hash := maphash.Bytes(r.seed, key[:])
	set, tag := &r.sets[hash&uint64(len(r.sets)-1)], hash>>rateTimeBits
	const tries = 8 // then allow: so many collisions between loops are unlikely in an attack
	for range tries {
		entry, old := r.find(set, tag, r.clock(now))
		at := r.clock(now) // not before that of the call that wrote the entry
		ahead := r.ahead(old, at)
		if old>>rateTimeBits != tag {
			ahead = 0
		}
		if ahead += r.interval; ahead > r.most {
			return false
		}
		fresh := tag<<rateTimeBits | (at+uint64(ahead))&rateTimeMask
		if entry.CompareAndSwap(old, fresh) {
			return true
		}
	}
	return true
}

// clock returns the latest time of all calls, in units.
func (r *Rates) clock(now int64) uint64 {
	for latest := r.latest.Load(); latest < now; latest = r.latest.Load() {
		if r.latest.CompareAndSwap(latest, now) {
			break
		}
	}
	return uint64(r.latest.Load()/int64(rateUnit)) & rateTimeMask
}

// find returns the entry of tag, or the one to replace, and its content.
func (r *Rates) find(set *[rateWays]atomic.Uint64, tag, at uint64) (entry *atomic.Uint64, old uint64) {
	least := r.most + 1
	for i := range set {
		e := &set[i]
		word := e.Load()
		if word>>rateTimeBits == tag {
			return e, word
		}
		if ahead := r.ahead(word, at); ahead < least {
			entry, old, least = e, word, ahead
		}
	}
	return entry, old
}

// ahead returns how many units an entry is ahead of at, 0 to most.
func (r *Rates) ahead(word, at uint64) int64 {
	ahead := int64((word - at) & rateTimeMask)
	if ahead > r.most {
		return 0 // in the past: the peer has its full share
	}
	return ahead
}

// translated is the prefix of IPv4 addresses in IPv6 (RFC 6052, section 2.1).
var translated = netip.PrefixFrom(netip.AddrFrom16([16]byte{1: 0x64, 2: 0xff, 3: 0x9b}), 96)

// Subscriber returns the address under which a is counted. For IPv6 that is the /64, the least that
// a network assigns to a host (RFC 6177, RFC 7421), because the addresses in it are free to use. An
// IPv4 address translated by a NAT64 (RFC 6052) keeps all its bits.
func Subscriber(a netip.Addr) netip.Addr {
	if !a.Is6() || translated.Contains(a) {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a // not reached: every IPv6 address has 64 bits
	}
	return p.Addr()
}
