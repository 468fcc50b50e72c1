package engine

import (
	"iter"
	"math/rand/v2"
)

// blockSize is how many sessions are made at once, so that they lie side by side.
// Together they fill whole pages, beyond the runtime's classes of small objects,
// whose next larger one would waste a tenth.
const blockSize = 128

// sessions are those of one loop, the used and the free ones. They are numbered,
// and stay where they are.
type sessionPool struct {
	blocks []*[blockSize]session
	free   uint64 // 1 + the index of the free one that was used last; its id leads on to the next
}

func (p *sessionPool) len() int { return len(p.blocks) * blockSize }

func (p *sessionPool) at(i uint32) *session { return &p.blocks[i/blockSize][i%blockSize] }

// ticket names a session for as long as it is the same connection.
type sessionRef struct{ index, generation uint32 }

func (s *session) ref() sessionRef { return sessionRef{s.index, s.generation} }

// tag returns the tag of the session's socket on a side.
func (s *session) tag(side int) tag { return newTag(side, s.ref().key()) }

// indexBits is the width of an index in a key: more sessions than a loop can have.
const indexBits = 30

// key packs the reference into the 62 bits that a [tag] has room for.
func (r sessionRef) key() uint64 { return uint64(r.generation)<<indexBits | uint64(r.index) }

// refOf is the inverse of key.
func refOf(key uint64) sessionRef {
	return sessionRef{index: uint32(key & (1<<indexBits - 1)), generation: uint32(key >> indexBits)}
}

// find returns the session that a ticket names, or nil if it has ended.
func (p *sessionPool) find(t sessionRef) *session {
	if s := p.at(t.index); s.generation == t.generation && s.state != free {
		return s
	}
	return nil
}

// from yields up to n sessions, from the i-th on.
func (p *sessionPool) from(i, n int) iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for end := min(i+n, p.len()); i < end; i++ {
			if !yield(p.at(uint32(i))) {
				return
			}
		}
	}
}

// live yields the sessions that are not free.
func (p *sessionPool) live() iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for s := range p.from(0, p.len()) {
			if s.state != free && !yield(s) {
				return
			}
		}
	}
}

// take returns a free session.
func (p *sessionPool) take() *session {
	if p.free == 0 {
		p.grow()
	}
	s := p.at(uint32(p.free - 1))
	p.free = s.id
	return s
}

// give takes a session back. Whoever names it by its generation will not find it
// any more.
func (p *sessionPool) put(s *session) {
	s.generation++
	s.state = free
	s.listener = nil
	s.id, p.free = p.free, uint64(s.index)+1
}

func (p *sessionPool) grow() {
	block := new([blockSize]session)
	p.blocks = append(p.blocks, block)
	for i := range block {
		s := &block[i]
		s.index = uint32(p.len() - blockSize + i)
		s.generation = rand.Uint32()
		s.timer.session = s
		s.sides[peer].fd, s.sides[backend].fd = -1, -1
		p.put(s)
	}
}
