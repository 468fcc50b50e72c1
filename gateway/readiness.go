package gateway

import (
	"slices"
	"strings"
	"sync"
)

// The reasons for which a gateway may not be ready, in the order in which
// [Readiness.Reasons] lists them. They are stable words: load balancers'
// operators search their logs for them.
const (
	NotReadyStarting    = "starting"    // the listeners are not open yet
	NotReadyDraining    = "draining"    // it was told to stop
	NotReadyDescriptors = "descriptors" // out of descriptors or memory: newcomers wait in the kernel's queue
	NotReadyReturnPath  = "return_path" // backends' replies to clients are not routed back
)

var notReadyOrder = [...]string{NotReadyStarting, NotReadyDraining, NotReadyDescriptors, NotReadyReturnPath}

// NotReady is one reason why a gateway should get no new connections.
type NotReady struct {
	// Reason is a stable word.
	Reason string `json:"reason"`
	// Detail says more, in a sentence; "" when there is no more to say.
	Detail string `json:"detail,omitempty"`
}

// Readiness is whether a gateway should get new connections, and why not. The
// zero value is ready. Its methods may be called from any goroutine; they lock,
// so they are not for the data path.
type Readiness struct {
	mu      sync.Mutex
	reasons []NotReady
}

// Set notes a reason. One that is there already gets the new detail.
func (r *Readiness) Set(reason, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(reason)
	r.reasons = append(r.reasons, NotReady{reason, detail})
	slices.SortFunc(r.reasons, func(a, b NotReady) int {
		if d := notReadyRank(a.Reason) - notReadyRank(b.Reason); d != 0 {
			return d
		}
		return strings.Compare(a.Reason, b.Reason)
	})
}

// Clear takes a reason away, if it is there.
func (r *Readiness) Clear(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(reason)
}

// Reasons returns every reason, in a fixed order whatever the order in which
// they came; none means ready. The caller owns the slice.
func (r *Readiness) Reasons() []NotReady {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.reasons)
}

func (r *Readiness) remove(reason string) {
	r.reasons = slices.DeleteFunc(r.reasons, func(n NotReady) bool { return n.Reason == reason })
}

// notReadyRank is a reason's place in the order; words that are not known come
// last.
func notReadyRank(reason string) int {
	if i := slices.Index(notReadyOrder[:], reason); i >= 0 {
		return i
	}
	return len(notReadyOrder)
}
