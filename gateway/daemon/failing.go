package daemon

import (
	"fmt"
	"sync"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
)

// failing counts the listening sockets from which nothing can be accepted or received.
// Their forwards are not ready.
type failing struct {
	mu      sync.Mutex
	sockets map[*forward.Forward]failures
}

// failures are the sockets of one forward that fail, with the error of the last one.
type failures struct {
	count int
	err   error
}

// note records a notice and makes readiness follow. Each socket that was reported as
// failing is reported again when it works.
func (s *failing) note(n engine.Notice, forwards []*forward.Forward, r *readiness.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.sockets[n.Of]
	switch n.Event {
	case "accept_failed", "receive_failed":
		f.count, f.err = f.count+1, n.Err
	case "accept_recovered", "receive_recovered":
		f.count--
	default:
		return
	}
	if s.sockets == nil {
		s.sockets = map[*forward.Forward]failures{}
	}
	s.sockets[n.Of] = f
	var problems []readiness.Problem
	for i, of := range forwards {
		if f := s.sockets[of]; f.count > 0 {
			problems = append(problems, readiness.Problem{Forward: i, Detail: f.String()})
		}
	}
	r.SetProblems(readiness.Listeners, problems)
}

func (f failures) String() string {
	if f.count == 1 {
		return fmt.Sprintf("a listening socket fails: %v", f.err)
	}
	return fmt.Sprintf("%d listening sockets fail, the last one by %v", f.count, f.err)
}
