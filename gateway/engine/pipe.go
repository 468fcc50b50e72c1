package engine

// The pipes that bulk data is spliced through. On a fast path each holds as
// much as a socket's buffers do; smaller ones cost a bulk stream a third of
// its speed.
const (
	pipeSize    = 1 << 20
	minPipeSize = 64 << 10 // below this, copying is faster
	pipesKept   = 32       // idle pipes of one loop
)

// pipePool keeps the idle pipes of one loop, all of them empty.
type pipePool struct {
	kernel Kernel
	idle   []*Pipe
}

// take returns an empty pipe, or nil when there is none to be had: out of
// descriptors, or the system grants this user only tiny ones.
func (p *pipePool) take() *Pipe {
	if last := len(p.idle) - 1; last >= 0 {
		pipe := p.idle[last]
		p.idle = p.idle[:last]
		return pipe
	}
	pipe, errno := p.kernel.Pipe(pipeSize)
	if errno != 0 {
		return nil
	}
	if pipe.size < minPipeSize {
		p.discard(&pipe)
		return nil
	}
	return &pipe
}

// give takes a pipe back. One that still holds bytes of a session that ended
// is closed, so that they can never reach another.
func (p *pipePool) give(pipe *Pipe) {
	if pipe.n > 0 || len(p.idle) >= pipesKept {
		p.discard(pipe)
		return
	}
	p.idle = append(p.idle, pipe)
}

func (p *pipePool) discard(pipe *Pipe) {
	p.kernel.Close(pipe.read)
	p.kernel.Close(pipe.write)
}

func (p *pipePool) close() {
	for _, pipe := range p.idle {
		p.discard(pipe)
	}
	p.idle = nil
}
