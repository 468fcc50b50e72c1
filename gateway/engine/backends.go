package engine

import (
	"errors"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
)

const (
	// steadyTime is how long a backend that has just answered is not taken for down because of a
	// connection, so that one that answers every other connection does not flood the log.
	steadyTime = time.Second
	// suspicionPause is the time between two tests of a backend that clients could not reach.
	suspicionPause = time.Second
	maxSuspects    = 16 // that wait for their test
)

// Backends is what is known about the backends of one forward: those that failed lately are tried
// last. All loops share it, and its methods are safe for concurrent use. While no backend is down, a
// connection costs one atomic load. It forgets everything with the process. The methods of nil do
// nothing.
//
// Destinations that headers name are not remembered: strangers choose them.
type Backends struct {
	forward  *forward.Forward
	notice   func(Notice)
	fixed    []forward.Endpoint // in the order of the configuration
	names    []namedPort
	suspects chan forward.Endpoint // for Backends.testSuspects

	down   atomic.Int32 // number of states that are down
	states atomic.Pointer[map[forward.Endpoint]*backendState]

	mu        sync.Mutex // of changes
	reporting sync.Mutex // taken before mu, held until a change is reported: reports are in order
}

// namedPort is a backend with a DNS name.
type namedPort struct {
	name *name
	port uint16
}

// backendState is what is known about one address.
type backendState struct {
	// downUntil is 0 for a backend that is up. Before this time of the kernel's clock a backend that
	// is down is tried last, after it by one connection at a time.
	downUntil atomic.Int64
	upAt      atomic.Int64 // when it was up again last, on the kernel's clock
	suspected atomic.Int64 // when it was suspected last, on the kernel's clock

	// With Backends.mu:
	since time.Time // of the last change
	err   error     // why it is down
}

// BackendState is one backend of a forward.
type BackendState struct {
	// Forward is the forward's label, Index its number in [Config.Forwards].
	Forward string
	Index   int
	// Backend is the address or the path, for a DNS name after the name; the name alone if it does
	// not resolve.
	Backend string
	// Up is false if the last connection or check failed.
	Up bool
	// Since is the time of the last change; zero if there was none.
	Since time.Time
	// LastError is why it is down, or "".
	LastError string
}

// NewBackends returns the state of a forward's backends, all up. notice receives each change; nil
// discards it.
func NewBackends(f *forward.Forward, notice func(Notice)) *Backends {
	b := &Backends{forward: f, notice: notice, suspects: make(chan forward.Endpoint, maxSuspects)}
	states := map[forward.Endpoint]*backendState{}
	for i := range f.Listeners {
		for _, to := range f.Listeners[i].Backends {
			if to.FromHeader || to.Host != "" || states[to.Endpoint] != nil {
				continue
			}
			states[to.Endpoint] = new(backendState)
			b.fixed = append(b.fixed, to.Endpoint)
		}
	}
	b.states.Store(&states)
	return b
}

// addName adds a backend with a DNS name. It must not be called after the start.
func (b *Backends) addName(n *name, port uint16) {
	if added := (namedPort{n, port}); n != nil && !slices.Contains(b.names, added) {
		b.names = append(b.names, added)
	}
}

// Prefer moves the backends that are down to the end of list and keeps the order otherwise. Once
// the retry time of a backend is over, one caller gets it in its place, as a test.
func (b *Backends) Prefer(list []forward.Endpoint, now int64) {
	if b == nil || len(list) < 2 || b.down.Load() == 0 {
		return
	}
	states, up := *b.states.Load(), 0
	for i, e := range list {
		if s := states[e]; s != nil && s.avoid(now, up == 0, b.forward.BackendRetry) {
			continue
		}
		copy(list[up+1:i+1], list[up:i])
		list[up] = e
		up++
	}
}

// avoid reports whether a backend should be tried last. first means that it would be tried first
// otherwise.
func (s *backendState) avoid(now int64, first bool, retry time.Duration) bool {
	until := s.downUntil.Load()
	if until == 0 || now < until {
		return until != 0
	}
	return first && !s.downUntil.CompareAndSwap(until, now+int64(retry))
}

// Failed records that a connect failed. asClient means that it was made from a client's address:
// then a firewall may have refused that client alone, and the backend is tested from the gateway's
// address before it counts as down.
func (b *Backends) Failed(to forward.Endpoint, errno syscall.Errno, now int64, asClient bool) {
	if b != nil && b.isDown(errno) {
		b.failed(to, errno, now, asClient)
	}
}

// errUnpromised is why a backend is down whose host does not read clients' addresses.
var errUnpromised = errors.New("its host does not promise to read the client's address (TOA)")

// Unpromised records that the host of a backend did not promise to read a client's address.
func (b *Backends) Unpromised(to forward.Endpoint, now int64) {
	if b != nil {
		b.failed(to, errUnpromised, now, false)
	}
}

func (b *Backends) failed(to forward.Endpoint, err error, now int64, asClient bool) {
	if b.forward.BackendRetry <= 0 {
		return
	}
	s := (*b.states.Load())[to]
	if s == nil {
		if !b.isNamed(to) {
			return
		}
		s = b.add(to)
	}
	if now < s.downUntil.Load() || s.upAt.Load() != 0 && now-s.upAt.Load() < int64(steadyTime) {
		return
	}
	if asClient {
		b.suspect(to, s, now)
		return
	}
	b.setDown(to, now+int64(b.forward.BackendRetry), err)
}

// isDown reports whether an error of connect(2) is due to the backend or the path to it. That no
// program listens is no fault of a backend that listens on demand.
func (b *Backends) isDown(errno syscall.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.ECONNRESET:
		return !b.forward.OnDemand
	case unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN,
		unix.ENOENT: // of a unix socket
		return true
	}
	return false
}

// suspect requests a test of a backend. A UDP socket learns nothing from a connect, so there is none.
func (b *Backends) suspect(to forward.Endpoint, s *backendState, now int64) {
	last := s.suspected.Load()
	if b.forward.Datagrams || last != 0 && now-last < int64(suspicionPause) || !s.suspected.CompareAndSwap(last, now) {
		return
	}
	select {
	case b.suspects <- to:
	default: // the next failure requests it again
	}
}

// Succeeded records that a backend has answered.
func (b *Backends) Succeeded(to forward.Endpoint, now int64) {
	if b == nil || b.down.Load() == 0 {
		return
	}
	if s := (*b.states.Load())[to]; s == nil || s.downUntil.Load() == 0 {
		return
	}
	b.setUp(to, now)
}

// setDown records that a backend is down and is tried last until a time.
func (b *Backends) setDown(to forward.Endpoint, until int64, err error) {
	b.reporting.Lock()
	defer b.reporting.Unlock()
	b.mu.Lock()
	s := b.addLocked(to)
	wasUp := s.downUntil.Swap(until) == 0
	if wasUp {
		b.down.Add(1)
		s.since = time.Now()
	}
	s.err = err
	b.mu.Unlock()
	if wasUp {
		b.report(Notice{Event: "backend_down", Detail: b.text(to), Err: err})
	}
}

// setUp records that a backend is up.
func (b *Backends) setUp(to forward.Endpoint, now int64) {
	b.reporting.Lock()
	defer b.reporting.Unlock()
	b.mu.Lock()
	s := (*b.states.Load())[to]
	changed := s != nil && s.downUntil.Swap(0) != 0
	if changed {
		b.down.Add(-1)
		s.upAt.Store(now)
		s.since, s.err = time.Now(), nil
	}
	b.mu.Unlock()
	if changed {
		b.report(Notice{Event: "backend_up", Detail: b.text(to)})
	}
}

func (b *Backends) report(n Notice) {
	if b.notice != nil {
		n.Forward = b.forward.Label()
		b.notice(n)
	}
}

func (b *Backends) add(to forward.Endpoint) *backendState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addLocked(to)
}

// addLocked returns the state of an address, and adds it if it is missing. Then it forgets the
// addresses that no name has any more. The caller holds mu.
func (b *Backends) addLocked(to forward.Endpoint) *backendState {
	old := *b.states.Load()
	if s := old[to]; s != nil {
		return s
	}
	states := map[forward.Endpoint]*backendState{to: new(backendState)}
	for _, e := range b.fixed {
		states[e] = old[e]
	}
	for e, s := range old {
		switch {
		case states[e] != nil:
		case b.isNamed(e):
			states[e] = s
		case s.downUntil.Swap(0) != 0:
			b.down.Add(-1)
		}
	}
	b.states.Store(&states)
	return states[to]
}

// isNamed reports whether a name resolves to an address now.
func (b *Backends) isNamed(e forward.Endpoint) bool {
	return slices.ContainsFunc(b.names, func(n namedPort) bool { return n.has(e) })
}

func (n namedPort) has(e forward.Endpoint) bool {
	return !e.IsUnix() && n.port == e.Addr.Port() && slices.Contains(*n.name.addresses.Load(), e.Addr.Addr())
}

func (n namedPort) endpoints() []forward.Endpoint {
	var all []forward.Endpoint
	for _, a := range *n.name.addresses.Load() {
		all = append(all, forward.Endpoint{Addr: netip.AddrPortFrom(a, n.port)})
	}
	return all
}

func (n namedPort) String() string { return forward.Backend{Host: n.name.host, Port: n.port}.String() }

// endpoints returns the current addresses of the backends.
func (b *Backends) endpoints() []forward.Endpoint {
	all := slices.Clone(b.fixed)
	for _, n := range b.names {
		for _, e := range n.endpoints() {
			if !slices.Contains(all, e) {
				all = append(all, e)
			}
		}
	}
	return all
}

// text returns an address in words, with the name that resolves to it.
func (b *Backends) text(e forward.Endpoint) string {
	if i := slices.IndexFunc(b.names, func(n namedPort) bool { return n.has(e) }); i >= 0 {
		return b.names[i].String() + " (" + e.Addr.String() + ")"
	}
	return e.String()
}

// list returns the state of each backend.
func (b *Backends) list() []BackendState {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []BackendState
	states := *b.states.Load()
	for _, e := range b.endpoints() {
		one := BackendState{Forward: b.forward.Label(), Backend: b.text(e), Up: true}
		if s := states[e]; s != nil {
			one.Up, one.Since = s.downUntil.Load() == 0, s.since
			if s.err != nil && !one.Up {
				one.LastError = s.err.Error()
			}
		}
		all = append(all, one)
	}
	for _, n := range b.names {
		if len(*n.name.addresses.Load()) == 0 {
			all = append(all, BackendState{
				Forward: b.forward.Label(), Backend: n.String(), LastError: "the name does not resolve",
			})
		}
	}
	return all
}

// anyUp reports whether a backend is up. It takes no lock: event loops call it.
func (b *Backends) anyUp() bool {
	states := *b.states.Load()
	return slices.ContainsFunc(b.endpoints(), func(e forward.Endpoint) bool {
		s := states[e]
		return s == nil || s.downUntil.Load() == 0
	})
}

// untilChecked is the time until which a backend whose check failed is tried last.
const untilChecked = math.MaxInt64
