package ban

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
)

// List is a list of bans that changes while it is in use. Create it with [New] or [Open].
// It is safe for concurrent use.
type List struct {
	now  func() time.Time
	path string // "" keeps the list in memory alone

	table atomic.Pointer[bart.Table[*entry]] // nil if it is empty
	hits  atomic.Uint64                      // of all bans, those that have ended included

	mu      sync.Mutex // around changes of the table and the fields below
	next    time.Time  // not later than the end of the first ban that ends; zero: none ends
	version uint64     // grows with every change
	frozen  bool
	wake    chan struct{} // holds a value after a change; see Watch

	file file
}

// entry is a ban in the table. The tables of several versions share it.
type entry struct {
	ban  Ban // without Hits
	hits atomic.Uint64
}

// New returns an empty list without a file. now is the wall clock.
func New(now func() time.Time) *List { return &List{now: now, wake: make(chan struct{}, 1)} }

// Contains reports whether a is banned. It takes no lock and does not allocate. An address
// with a zone is never banned: no client that a header names has one.
func (l *List) Contains(a netip.Addr) bool {
	t := l.table.Load()
	return t != nil && t.Contains(a)
}

// Admit is Contains, and counts a hit of the most specific ban. The name and the number
// of the loop are those of [unproxy/gateway/forward.HitCounter].
func (l *List) Admit(a netip.Addr, _ int) bool {
	t := l.table.Load()
	if t == nil {
		return false
	}
	e, ok := t.Lookup(a)
	if ok {
		e.hits.Add(1)
		l.hits.Add(1)
	}
	return ok
}

// Len returns the number of bans.
func (l *List) Len() int {
	if t := l.table.Load(); t != nil {
		return t.Size()
	}
	return 0
}

// Hits returns the number of connections and UDP flows that the list refused.
func (l *List) Hits() uint64 { return l.hits.Load() }

// All returns the bans that have not ended, those of IPv4 first, in the order of their
// prefixes. The caller owns the slice.
func (l *List) All() []Ban {
	l.Expire()
	all := []Ban{}
	t := l.table.Load()
	if t == nil {
		return all
	}
	for _, e := range t.AllSorted() {
		b := e.ban
		b.Hits = e.hits.Load()
		all = append(all, b)
	}
	return all
}

// Add adds a ban, or replaces the one with the same prefix, whose Since and Hits stay. It
// ignores Since and Hits of b. With a file it returns when the file holds the ban. The ban
// is in force nevertheless if that fails; the error is then a [*SaveError]. Other errors
// are [ErrFull], [ErrFrozen], or about b.
func (l *List) Add(b Ban) (Ban, error) {
	b.Since, b.Hits = l.now().UTC().Truncate(time.Second), 0
	if !b.Until.IsZero() {
		b.Until = b.Until.UTC().Round(0)
	}
	if err := b.check(); err != nil {
		return Ban{}, err
	}
	l.Expire()
	b, version, err := l.put(b)
	if err != nil {
		return Ban{}, err
	}
	return b, l.save(version)
}

// put adds a checked ban to the table.
func (l *List) put(b Ban) (Ban, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.table.Load()
	if t == nil {
		t = new(bart.Table[*entry])
	}
	before, replaces := t.Get(b.Prefix)
	switch {
	case l.frozen:
		return Ban{}, 0, ErrFrozen
	case !replaces && t.Size() >= Most:
		return Ban{}, 0, ErrFull
	}
	e := &entry{ban: b}
	if replaces {
		e.ban.Since = before.ban.Since
		e.hits.Store(before.hits.Load())
	}
	l.note(&e.ban)
	l.publish(t.InsertPersist(b.Prefix, e))
	b = e.ban
	b.Hits = e.hits.Load()
	return b, l.version, nil
}

// Remove ends the ban of a prefix. removed is false if there was none. coveredBy are the
// wider bans that go on. The error is that of [List.Add].
func (l *List) Remove(p netip.Prefix) (removed bool, coveredBy []netip.Prefix, err error) {
	l.Expire()
	removed, version, err := l.delete(p)
	if err != nil {
		return false, nil, err
	}
	if t := l.table.Load(); t != nil {
		for wider := range t.Supernets(p) {
			if wider != p {
				coveredBy = append(coveredBy, wider)
			}
		}
	}
	if !removed {
		return false, coveredBy, nil
	}
	return true, coveredBy, l.save(version)
}

func (l *List) delete(p netip.Prefix) (removed bool, version uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen {
		return false, 0, ErrFrozen
	}
	t := l.table.Load()
	if t == nil {
		return false, 0, nil
	}
	if _, removed = t.Get(p); removed {
		l.publish(t.DeletePersist(p))
	}
	return removed, l.version, nil
}

// publish makes t the table. The caller holds mu.
func (l *List) publish(t *bart.Table[*entry]) {
	if t.Size() == 0 {
		t = nil
	}
	l.table.Store(t)
	l.version++
	select {
	case l.wake <- struct{}{}:
	default: // a value is there
	}
}

// note brings next forward to the end of a ban, if it has one. The caller holds mu.
func (l *List) note(b *Ban) {
	if u := b.Until; !u.IsZero() && (l.next.IsZero() || u.Before(l.next)) {
		l.next = u
	}
}

// Expire removes the bans whose time is over, and returns when the next one ends, the
// zero time if none does.
func (l *List) Expire() (next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.next.IsZero() || now.Before(l.next) {
		return l.next
	}
	l.next = time.Time{}
	t := l.table.Load()
	if t == nil {
		return l.next
	}
	left := t
	for p, e := range t.All() {
		if e.ban.over(now) {
			left = left.DeletePersist(p)
			continue
		}
		l.note(&e.ban)
	}
	l.publish(left)
	return l.next
}

// longestWait limits how long [List.Watch] sleeps, because the wall clock may be set.
const longestWait = time.Second

// Watch ends bans when their time is over, until ctx is done.
func (l *List) Watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
		if next := l.Expire(); !next.IsZero() {
			timer.Reset(max(0, min(longestWait, next.Sub(l.now()))))
		}
	}
}

// Freeze refuses changes from now on, because another process takes the list over, and
// returns the bans. [List.Thaw] permits them again.
func (l *List) Freeze() []Ban {
	l.mu.Lock()
	l.frozen = true
	l.mu.Unlock()
	return l.All()
}

// Thaw undoes [List.Freeze].
func (l *List) Thaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = false
}

// Replace makes the list hold the given bans, those of the previous process. It does not
// write the file. If a ban is invalid the list stays as it was.
func (l *List) Replace(all []Ban) error {
	t := new(bart.Table[*entry])
	now := l.now()
	for _, b := range all {
		if err := b.check(); err != nil {
			return err
		}
		if b.over(now) {
			continue
		}
		e := &entry{ban: b}
		e.ban.Hits = 0
		e.hits.Store(b.Hits)
		t.Insert(b.Prefix, e)
	}
	if t.Size() > Most {
		return ErrFull
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = time.Time{}
	for _, e := range t.All() {
		l.note(&e.ban)
	}
	l.publish(t)
	return nil
}
