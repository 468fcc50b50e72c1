// Package readiness keeps the reasons why a gateway should not get new connections.
package readiness

import (
	"slices"
	"strings"
	"sync"
)

// The reasons why a gateway is not ready, in the order in which [State.Reasons]
// lists them. The words do not change: operators search logs for them.
const (
	Starting    = "starting"    // the listeners are not open yet
	Draining    = "draining"    // a stop was requested
	Descriptors = "descriptors" // out of descriptors or memory: newcomers wait in the kernel's queue
	ReturnPath  = "return_path" // backends' replies to clients are not routed back
)

var order = [...]string{Starting, Draining, Descriptors, ReturnPath}

// Reason is a reason why a gateway should not get new connections.
type Reason struct {
	// Word is one of the constants.
	Word string `json:"reason"`
	// Detail is an explanation in one sentence, or "".
	Detail string `json:"detail,omitempty"`
}

// State says whether a gateway should get new connections, and why not. The zero value
// is ready. It is safe for concurrent use. It uses a lock, so it is not for the data
// path.
type State struct {
	mu      sync.Mutex
	reasons []Reason
}

// Set adds a reason, or replaces its detail if it is already set.
func (s *State) Set(word, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(word)
	s.reasons = append(s.reasons, Reason{word, detail})
	slices.SortFunc(s.reasons, func(a, b Reason) int {
		if d := rank(a.Word) - rank(b.Word); d != 0 {
			return d
		}
		return strings.Compare(a.Word, b.Word)
	})
}

// Clear removes a reason, if it is set.
func (s *State) Clear(word string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(word)
}

// Reasons returns all reasons, in the order of the constants; none means ready.
// The caller owns the slice.
func (s *State) Reasons() []Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reasons)
}

func (s *State) remove(word string) {
	s.reasons = slices.DeleteFunc(s.reasons, func(n Reason) bool { return n.Word == word })
}

// rank returns a reason's place in the order; unknown words come last.
func rank(word string) int {
	if i := slices.Index(order[:], word); i >= 0 {
		return i
	}
	return len(order)
}
