package engine

import (
	"sync/atomic"

	"unproxy/gateway/kernel"
)

const (
	// pipeSize is the capacity of the pipes for splice(2). On a fast path each holds as much as a
	// socket buffer; smaller pipes make a bulk stream a third slower.
	pipeSize = 1 << 20
	// minPipeSize is the capacity below which copying is faster.
	minPipeSize = 64 << 10
	// maxIdlePipes is the number of idle pipes that one loop keeps.
	maxIdlePipes = 32
)

// pipe is a kernel pipe and the number of bytes in it.
type pipe struct {
	kernel.Pipe
	n int
}

// pipePool holds the idle pipes of one loop, all of them empty, and counts those that are lent.
type pipePool struct {
	kernel kernel.Kernel
	limit  int // 0: none
	open   atomic.Int64
	idle   []*pipe
}

// take returns an empty pipe. It returns nil at the limit, if no file descriptors are left, or if
// the system grants this user only small pipes.
func (p *pipePool) take() *pipe {
	if last := len(p.idle) - 1; last >= 0 {
		taken := p.idle[last]
		p.idle = p.idle[:last]
		return taken
	}
	if p.limit > 0 && p.open.Load() >= int64(p.limit) {
		return nil
	}
	opened, errno := p.kernel.Pipe(pipeSize)
	if errno != 0 {
		return nil
	}
	p.open.Add(1)
	fresh := &pipe{Pipe: opened}
	if fresh.Size < minPipeSize {
		p.closePipe(fresh)
		return nil
	}
	return fresh
}

// put returns a pipe to the pool. It closes a pipe that still holds bytes, so that they never reach
// another session.
func (p *pipePool) put(used *pipe) {
	if used.n > 0 || len(p.idle) >= maxIdlePipes {
		p.closePipe(used)
		return
	}
	p.idle = append(p.idle, used)
}

func (p *pipePool) closePipe(unused *pipe) {
	p.open.Add(-1)
	p.kernel.Close(unused.Read)
	p.kernel.Close(unused.Write)
}

func (p *pipePool) close() {
	for _, unused := range p.idle {
		p.closePipe(unused)
	}
	p.idle = nil
}
