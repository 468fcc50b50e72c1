package engine

import (
	"iter"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// blockSize is the number of sessions allocated together. A block fills whole pages. It is larger
// than the runtime's small size classes, where rounding up to the next class would waste a tenth.
const blockSize = 128

// sessionPool holds the sessions of one loop, in use and free. A session has an index and never
// moves.
type sessionPool struct {
	blocks    []*[blockSize]session // nil: given back
	free      uint64                // index + 1 of the first free session; its id is the next entry
	allocated atomic.Int64          // sessions in blocks
}

func (p *sessionPool) len() int { return len(p.blocks) * blockSize }

func (p *sessionPool) at(i uint32) *session { return &p.blocks[i/blockSize][i%blockSize] }

// sessionRef refers to a session while it serves the same connection.
type sessionRef struct{ index, generation uint32 }

func (s *session) ref() sessionRef { return sessionRef{s.index, s.generation} }

// tag returns the tag of the session's socket on a side.
func (s *session) tag(side int) tag { return newTag(side, s.ref().key()) }

// indexBits is the width of an index in a key. A loop can't have so many sessions.
const indexBits = 30

// key packs the reference into the 62 bits that a [tag] has room for.
func (r sessionRef) key() uint64 { return uint64(r.generation)<<indexBits | uint64(r.index) }

// refOf is the inverse of key.
func refOf(key uint64) sessionRef {
	return sessionRef{index: uint32(key & (1<<indexBits - 1)), generation: uint32(key >> indexBits)}
}

// find returns the session of a reference, or nil if its connection has ended.
func (p *sessionPool) find(t sessionRef) *session {
	if p.blocks[t.index/blockSize] == nil {
		return nil
	}
	if s := p.at(t.index); s.generation == t.generation && s.state != free {
		return s
	}
	return nil
}

// from yields the sessions among n indices from i on, including free ones.
func (p *sessionPool) from(i, n int) iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for end := min(i+n, p.len()); i < end; i++ {
			if p.blocks[i/blockSize] != nil && !yield(p.at(uint32(i))) {
				return
			}
		}
	}
}

// live yields the sessions in use.
func (p *sessionPool) live() iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for s := range p.from(0, p.len()) {
			if s.state != free && !yield(s) {
				return
			}
		}
	}
}

func (p *sessionPool) take() *session {
	if p.free == 0 {
		p.grow()
	}
	s := p.at(uint32(p.free - 1))
	p.free = s.id
	return s
}

// put returns a session to the pool. References to it become invalid.
func (p *sessionPool) put(s *session) {
	s.generation++
	s.state = free
	s.listener = nil
	s.id, p.free = p.free, uint64(s.index)+1
}

// grow allocates a block, in the place of one that was given back if there is one.
func (p *sessionPool) grow() {
	block, number := new([blockSize]session), slices.Index(p.blocks, nil)
	if number < 0 {
		number = len(p.blocks)
		p.blocks = append(p.blocks, nil)
	}
	p.blocks[number] = block
	p.allocated.Add(blockSize)
	for i := range block {
		s := &block[i]
		s.index = uint32(number*blockSize + i)
		s.generation = rand.Uint32()
		s.timer.session = s
		s.sides[peer].fd, s.sides[backend].fd = -1, -1
		p.put(s)
	}
}

// inUse reports whether a session of a block is in use.
func inUse(block *[blockSize]session) bool {
	for i := range block {
		if block[i].state != free {
			return true
		}
	}
	return false
}

// shrink gives back the blocks without a session in use, except for the first one. The free
// sessions that remain are used in the order of their index from now on, so that later blocks
// become empty first.
func (p *sessionPool) shrink() {
	for i, block := range p.blocks {
		if i > 0 && block != nil && !inUse(block) {
			p.blocks[i] = nil
			p.allocated.Add(-blockSize)
		}
	}
	p.free = 0
	for i := p.len() - 1; i >= 0; i-- {
		if p.blocks[i/blockSize] == nil {
			continue
		}
		if s := p.at(uint32(i)); s.state == free {
			s.id, p.free = p.free, uint64(i)+1
		}
	}
}
