// Package readiness keeps the reasons for which a gateway, or one of its forwards,
// should get no new connections.
package readiness

import (
	"slices"
	"strings"
	"sync"
)

// The reasons for which a gateway or a forward may not be ready, in the order in
// which a [Report] lists them. They are stable words: load balancers'
// operators search their logs for them.
const (
	Starting    = "starting"    // the listeners are not open yet
	Draining    = "draining"    // it was told to stop
	Descriptors = "descriptors" // out of descriptors or memory: newcomers wait in the kernel's queue
	ReturnPath  = "return_path" // backends' replies to clients are not routed back
)

var order = [...]string{Starting, Draining, Descriptors, ReturnPath}

// Reason is one reason why a gateway or a forward should get no new connections.
type Reason struct {
	// Word is one of the constants.
	Word string `json:"reason"`
	// Detail says more, in a sentence; "" when there is no more to say.
	Detail string `json:"detail,omitempty"`
}

// State is whether a gateway and its forwards should get new connections, and why
// not. The zero value is ready. Its methods may be called from any goroutine; they
// lock, so they are not for the data path.
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

// Set notes a reason that concerns all forwards. One that is there already gets the
// new detail.
func (s *State) Set(word, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(word)
	s.reasons = append(s.reasons, Reason{word, detail})
	sortReasons(s.reasons)
}

// Clear takes a reason away, if it is there.
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

func sortReasons(all []Reason) {
	slices.SortFunc(all, func(a, b Reason) int {
		if d := rank(a.Word) - rank(b.Word); d != 0 {
			return d
		}
		return strings.Compare(a.Word, b.Word)
	})
}

// rank is a reason's place in the order; words that are not known come
// last.
func rank(word string) int {
	if i := slices.Index(order[:], word); i >= 0 {
		return i
	}
	return len(order)
}
