package engine

import "unproxy/gateway/kernel"

const (
	// pipeSize is the capacity of the pipes that bulk data is spliced through.
	// On a fast path each holds as much as the buffers of a socket; smaller
	// pipes cost a bulk stream a third of its speed.
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

// pipePool holds the idle pipes of one loop, all of them empty.
type pipePool struct {
	kernel kernel.Kernel
	idle   []*pipe
}

// take returns an empty pipe, or nil if there are no file descriptors left or the
// system grants this user only small pipes.
func (p *pipePool) take() *pipe {
	if last := len(p.idle) - 1; last >= 0 {
		taken := p.idle[last]
		p.idle = p.idle[:last]
		return taken
	}
	opened, errno := p.kernel.Pipe(pipeSize)
	if errno != 0 {
		return nil
	}
	fresh := &pipe{Pipe: opened}
	if fresh.Size < minPipeSize {
		p.closePipe(fresh)
		return nil
	}
	return fresh
}

// give returns a pipe to the pool. A pipe that still holds bytes of a session is
// closed, so that they can never reach another session.
func (p *pipePool) put(used *pipe) {
	if used.n > 0 || len(p.idle) >= maxIdlePipes {
		p.closePipe(used)
		return
	}
	p.idle = append(p.idle, used)
}

func (p *pipePool) closePipe(unused *pipe) {
	p.kernel.Close(unused.Read)
	p.kernel.Close(unused.Write)
}

func (p *pipePool) close() {
	for _, unused := range p.idle {
		p.closePipe(unused)
	}
	p.idle = nil
}
