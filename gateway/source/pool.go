// Package source takes the gateway's own addresses in turn for the connections to
// backends that are not bound to the client's address: those of plain mode, and those that
// carry the client in a TCP option. Each address has its own source ports.
//
// pool.go says which address comes next, bind.go binds a socket to it.
package source

import (
	"net/netip"
	"slices"
)

const (
	// MaxAddresses is the maximum number of addresses of a forward.
	MaxAddresses = 256
	// restTime is how long an address without a free port is tried last, in
	// nanoseconds. That it lacks one port for one backend says little about others,
	// so it is not left out.
	restTime = 10e9
	// maxRested is how many of these a connection tries. A connect(2) that finds no
	// free port searches the whole range.
	maxRested = 4
)

// Count returns the number of addresses in prefixes, at most limit.
func Count(prefixes []netip.Prefix, limit int) int {
	n := 0
	for _, p := range prefixes {
		bits := p.Addr().BitLen() - p.Bits()
		if bits >= 31 {
			return limit
		}
		if n += 1 << bits; n >= limit {
			return limit
		}
	}
	return n
}

// Addresses returns the addresses of the prefixes of one family, each once, in the order of
// the prefixes, and at most MaxAddresses.
func Addresses(prefixes []netip.Prefix, is4 bool) []netip.Addr {
	var all []netip.Addr
	for _, p := range prefixes {
		if p.Addr().Is4() != is4 {
			continue
		}
		for a := p.Masked().Addr(); p.Contains(a) && len(all) < MaxAddresses; a = a.Next() {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	return all
}

// Pool is the addresses of one forward. An event loop owns it: it is not safe for
// concurrent use. The methods of nil are those of an empty pool.
type Pool struct{ v4, v6 ring }

// ring is the addresses of one family.
type ring struct {
	all   []address
	next  int    // the index at which the next turn begins
	turns uint64 // begun so far
}

type address struct {
	netip.Addr
	restsUntil int64  // in the past: it had a free port when it was tried last
	turn       uint64 // that tried it last
}

// NewPool returns a pool of every address of the prefixes, each once, or nil for no
// prefix. Loops that share the addresses pass different numbers to begin at, so that
// they do not all take the same address first.
func NewPool(prefixes []netip.Prefix, first int) *Pool {
	if len(prefixes) == 0 {
		return nil
	}
	return &Pool{v4: newRing(Addresses(prefixes, true), first), v6: newRing(Addresses(prefixes, false), first)}
}

func newRing(addresses []netip.Addr, first int) ring {
	r := ring{all: make([]address, len(addresses)), next: first % max(1, len(addresses))}
	for i, a := range addresses {
		r.all[i].Addr = a
	}
	return r
}

func (p *Pool) family(is4 bool) *ring {
	if is4 {
		return &p.v4
	}
	return &p.v6
}

func (r *ring) contains(a netip.Addr) bool {
	return slices.ContainsFunc(r.all, func(have address) bool { return have.Addr == a })
}

// Serves reports whether the pool has an address of a family.
func (p *Pool) Serves(is4 bool) bool { return p != nil && len(p.family(is4).all) > 0 }

// Contains reports whether a is one of the addresses.
func (p *Pool) Contains(a netip.Addr) bool { return p != nil && p.family(a.Is4()).contains(a) }

// Turn is the order in which one connection tries the addresses of a family. The zero
// value has none.
type Turn struct {
	ring   *ring
	number uint64
	now    int64
	// steps counts through two rounds from start on: of addresses that do not rest, and of those
	// that do, of which rested have been tried.
	start, steps, rested int
	last                 *address
}

// Begin begins the turn of a connection. now is a monotonic time in nanoseconds.
func (p *Pool) Begin(is4 bool, now int64) Turn {
	if !p.Serves(is4) {
		return Turn{}
	}
	r := p.family(is4)
	r.turns++
	return Turn{ring: r, number: r.turns, now: now, start: r.next}
}

// Next returns the address to try next, which has then been tried. ok is false if
// there is no other.
func (t *Turn) Next() (a netip.Addr, ok bool) {
	if t.ring == nil {
		return netip.Addr{}, false
	}
	for n := len(t.ring.all); t.steps < 2*n && t.rested < maxRested; {
		i, secondRound := (t.start+t.steps)%n, t.steps >= n
		t.steps++
		one := &t.ring.all[i]
		if one.turn == t.number || (one.restsUntil > t.now) != secondRound {
			continue
		}
		if secondRound {
			t.rested++
		}
		t.last, t.ring.next, one.turn = one, (i+1)%n, t.number
		return one.Addr, true
	}
	return netip.Addr{}, false
}

// Failed records that the address that Next returned last had no free port, or could
// not be used.
func (t *Turn) Failed() { t.last.restsUntil = t.now + restTime }

// Succeeded records that it had one.
func (t *Turn) Succeeded() { t.last.restsUntil = 0 }

// Freed records that a port of an address is free again.
func (p *Pool) Freed(a netip.Addr) {
	if p == nil {
		return
	}
	r := p.family(a.Is4())
	if i := slices.IndexFunc(r.all, func(have address) bool { return have.Addr == a }); i >= 0 {
		r.all[i].restsUntil = 0
	}
}
