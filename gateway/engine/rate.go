package engine

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// Rate is how often something may happen; the zero value is any number of times.
type Rate struct {
	// PerSecond is how often in the long run, at most 100 000.
	PerSecond int
	// Burst is how often at once, at least 1 where PerSecond is not 0.
	Burst int
}

// The table's geometry: 128 KiB that remember 16 384 peers.
const (
	rateSets = 4096
	rateWays = 4
)

// Each entry is one word: 24 bits that tell the peer from others of its set,
// and the time up to which it has used its share, in units of 256 ns. The time
// comes round every 78 hours, after which an old entry may hold its peer up
// once, for no longer than a burst.
const (
	rateTimeBits = 40
	rateTimeMask = 1<<rateTimeBits - 1
	rateUnit     = 256 * time.Nanosecond
)

// rates limits how often each peer connects. All that is kept of a peer is one
// time (the generic cell rate algorithm, ITU-T I.371 annex A), in a table of
// fixed size: no number of addresses makes it grow. Where more peers are busy
// than there is room for, the one nearest to having its whole share is
// forgotten, which lets through too much rather than too little. Loops share it
// without locks.
type rates struct {
	interval int64 // units for one connection
	most     int64 // units that a peer may be ahead
	seed     maphash.Seed
	sets     [rateSets][rateWays]atomic.Uint64
}

// newRates returns nil where there is no limit.
func newRates(r Rate) *rates {
	if r.PerSecond <= 0 {
		return nil
	}
	interval := max(1, int64(time.Second/rateUnit)/int64(r.PerSecond))
	return &rates{interval: interval, most: interval * int64(max(1, r.Burst)), seed: maphash.MakeSeed()}
}

// allow counts a connection of a peer at now, a kernel's time, and reports
// whether it may be. Peers on unix sockets, which have no address, always may.
func (r *rates) allow(peer netip.Addr, now int64) bool {
	if r == nil || !peer.IsValid() {
		return true
	}
	key := subscriber(peer).As16()
	hash := maphash.Bytes(r.seed, key[:])
	set, tag := &r.sets[hash%rateSets], hash>>rateTimeBits
	at := uint64(now/int64(rateUnit)) & rateTimeMask
	const tries = 8 // loops that meet here again and again are no attack
	for range tries {
		entry, old := r.find(set, tag, at)
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

// find returns the entry of tag, or the one to be forgotten for it, and what
// it holds.
func (r *rates) find(set *[rateWays]atomic.Uint64, tag, at uint64) (entry *atomic.Uint64, old uint64) {
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

// ahead returns how many units an entry is ahead of now, 0 to most.
func (r *rates) ahead(word, at uint64) int64 {
	ahead := int64((word - at) & rateTimeMask)
	if ahead > r.most {
		return 0 // it is behind: the peer has its whole share
	}
	return ahead
}

// translated is the prefix of IPv4 addresses in IPv6 (RFC 6052, section 2.1).
var translated = netip.PrefixFrom(netip.AddrFrom16([16]byte{1: 0x64, 2: 0xff, 3: 0x9b}), 96)

// subscriber is whom an address stands for where connections are counted: of
// IPv6 the /64, which is the least that a host is given (RFC 6177, RFC 7421),
// so that its single addresses are no measure of anything. What a translator
// made of an IPv4 address (RFC 6052) stands for that one.
func subscriber(a netip.Addr) netip.Addr {
	if !a.Is6() || translated.Contains(a) {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a // there is no IPv6 address without 64 bits
	}
	return p.Addr()
}
