// Package readiness keeps the reasons why a gateway, or one of its forwards, should not
// get new connections.
package readiness

import (
	"slices"
	"strings"
	"sync"
)

// The reasons why a gateway or a forward is not ready, in the order in which a [Report]
// lists them. The words do not change: operators search logs for them.
const (
	Starting    = "starting"    // the listeners are not open yet
	Draining    = "draining"    // a stop was requested
	Listeners   = "listeners"   // listening sockets of a forward fail
	Descriptors = "descriptors" // out of descriptors or memory: newcomers wait in the kernel's queue
	Connections = "connections" // the limit on connections is reached, or nearly
	Buffers     = "buffers"     // the limit on buffers is reached, or nearly
	ReturnPath  = "return_path" // backends' replies to clients are not routed back
	TOA         = "toa"         // backends' hosts do not promise to read clients' addresses
	Backends    = "backends"    // no backend of a forward with --backend-check answers
)

var order = [...]string{Starting, Draining, Listeners, Descriptors, Connections, Buffers, ReturnPath, TOA, Backends}

// Reason is a reason why a gateway or a forward should not get new connections.
type Reason struct {
	// Word is one of the constants.
	Word string `json:"reason"`
	// Detail is an explanation in one sentence, or "".
	Detail string `json:"detail,omitempty"`
}

// State says whether a gateway and its forwards should get new connections, and why
// not. The zero value is ready. It is safe for concurrent use. It uses a lock, so it is
// not for the data path.
type State struct {
	mu       sync.Mutex
	reasons  []Reason
	problems map[string][]Problem // by word
}

// Problem is what impairs one forward.
type Problem struct {
	// Forward is the index of the forward in the configuration.
	Forward int
	// Detail describes the problem in a sentence.
	Detail string
	// Serves reports whether the forward serves all clients nevertheless, for
	// example with another backend.
	Serves bool
}

// Set adds a reason that concerns all forwards, or replaces its detail if it is already
// set.
func (s *State) Set(word, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(word)
	s.reasons = append(s.reasons, Reason{word, detail})
	sortReasons(s.reasons)
}

// Clear removes a reason, if it is set.
func (s *State) Clear(word string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(word)
}

// SetProblems replaces the problems of all forwards that have a word for their
// reason, at most one for each forward. It takes ownership of the slice.
func (s *State) SetProblems(word string, all []Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problems == nil {
		s.problems = map[string][]Problem{}
	}
	s.problems[word] = all
}

// Report returns the readiness of a gateway with so many forwards. Reasons are in a
// fixed order, whatever the order in which they came. The caller owns the report.
func (s *State) Report(forwards int) Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Report{Reasons: slices.Clone(s.reasons), Forwards: make([]Forward, forwards)}
	for i := range r.Forwards {
		r.Forwards[i].Serves = true
	}
	for word, all := range s.problems {
		for _, p := range all {
			if p.Forward >= forwards {
				continue
			}
			f := &r.Forwards[p.Forward]
			f.Serves = f.Serves && p.Serves
			f.Reasons = append(f.Reasons, Reason{word, p.Detail})
		}
	}
	for _, f := range r.Forwards {
		sortReasons(f.Reasons)
	}
	return r
}

func (s *State) remove(word string) {
	s.reasons = slices.DeleteFunc(s.reasons, func(n Reason) bool { return n.Word == word })
}

// sortReasons puts reasons into their order.
func sortReasons(all []Reason) {
	slices.SortFunc(all, func(a, b Reason) int {
		if d := rank(a.Word) - rank(b.Word); d != 0 {
			return d
		}
		return strings.Compare(a.Word, b.Word)
	})
}

// rank returns a reason's place in the order; unknown words come last.
func rank(word string) int {
	if i := slices.Index(order[:], word); i >= 0 {
		return i
	}
	return len(order)
}
