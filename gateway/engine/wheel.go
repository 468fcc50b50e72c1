package engine

import (
	"math/bits"
	"time"
)

// The wheel's geometry: three levels of 256 slots, each slot of a level as
// wide as the whole level below: 2 s in steps of 8 ms, 9 minutes, 37 hours.
const (
	// The wheel has three levels of 256 slots. A slot is as wide as the whole level below. The
	// levels cover 2 s in ticks of 8 ms, 9 minutes and 37 hours.
	tick       = int64(8 * time.Millisecond)
	slotBits   = 8
	slots      = 1 << slotBits
	levels     = 3
	maxTicks   = 1<<(slotBits*levels) - 1
	noDeadline = -1
)

// timer is a deadline, linked into a wheel. The zero value is not armed.
type timer struct {
	next, prev *timer
	due        int64 // in ticks
	session    *session
}

func (t *timer) armed() bool { return t.next != nil }

// wheel holds the deadlines of one loop. Arming and disarming cost a few pointer writes, and a loop
// without deadlines never wakes for them (hierarchical timing wheel, Varghese and Lauck 1987).
type wheel struct {
	now   int64 // the last tick that advance handled
	count int
	slot  [levels][slots]timer // list heads
	// used has a bit for each slot that may hold timers. insert sets it, ahead clears it.
	used [levels][slots / 64]uint64
}

func newWheel(now int64) *wheel {
	w := &wheel{now: now / tick}
	for l := range w.slot {
		for i := range w.slot[l] {
			head := &w.slot[l][i]
			head.next, head.prev = head, head
		}
	}
	return w
}

// arm sets t's deadline, in nanoseconds of the kernel's clock. t fires at the first tick that is
// not before the deadline, and at the latest at the horizon of maxTicks.
func (w *wheel) arm(t *timer, deadline int64) {
	w.disarm(t)
	t.due = min(max((deadline+tick-1)/tick, w.now+1), w.now+maxTicks)
	w.insert(t)
	w.count++
}

func (w *wheel) disarm(t *timer) {
	if !t.armed() {
		return
	}
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev = nil, nil
	w.count--
}

func (w *wheel) insert(t *timer) {
	level := 0
	for ahead := t.due - w.now; ahead >= 1<<(slotBits*(level+1)); {
		level++
	}
	slot := t.due >> (slotBits * level) & (slots - 1)
	w.used[level][slot/64] |= 1 << (slot % 64)
	head := &w.slot[level][slot]
	t.next, t.prev = head, head.prev
	head.prev.next, head.prev = t, t
}

// skip moves an empty wheel to now, so that the next deadline counts from there.
func (w *wheel) skip(now int64) {
	if w.count == 0 {
		w.now = max(w.now, now/tick)
	}
}

// advance fires every deadline up to now. Each timer is disarmed and passed to fire, which may arm
// and disarm timers.
func (w *wheel) advance(now int64, fire func(*timer)) {
	w.skip(now)
	last := now / tick
	for w.now < last {
		w.now++
		for level := 1; level < levels && w.now&(1<<(slotBits*level)-1) == 0; level++ {
			w.cascade(&w.slot[level][w.now>>(slotBits*level)&(slots-1)])
		}
		head := &w.slot[0][w.now&(slots-1)]
		for head.next != head {
			t := head.next
			w.disarm(t)
			fire(t)
		}
		if w.count == 0 {
			w.now = last
		}
	}
}

// cascade moves a slot's timers to lower levels.
func (w *wheel) cascade(head *timer) {
	t := head.next
	head.next, head.prev = head, head
	for t != head {
		next := t.next
		w.insert(t)
		t = next
	}
}

// wait returns how long a loop may sleep before the next deadline or cascade: milliseconds, rounded
// up, or noDeadline.
func (w *wheel) wait(now int64) int {
	if w.count == 0 {
		return noDeadline
	}
	at := w.next()
	return int(max(0, at*tick-now+int64(time.Millisecond)-1) / int64(time.Millisecond))
}

// next returns the tick of the nearest slot with timers: the nearest deadline, or the time of a
// cascade.
func (w *wheel) next() int64 {
	nearest := w.now + maxTicks
	for level := range levels {
		shift := slotBits * level
		if ahead := w.ahead(level, w.now>>shift); ahead > 0 {
			nearest = min(nearest, (w.now>>shift+ahead)<<shift)
		}
	}
	return nearest
}

// ahead returns the distance in slots, 1 to slots, from base to the next slot of a level that holds
// timers; 0 if there is none.
func (w *wheel) ahead(level int, base int64) int64 {
	for i := int64(1); i <= slots; {
		slot := (base + i) & (slots - 1)
		rest := w.used[level][slot/64] >> (slot % 64)
		if rest == 0 {
			i += 64 - slot%64
			continue
		}
		if skip := int64(bits.TrailingZeros64(rest)); skip > 0 {
			i += skip
			continue
		}
		if head := &w.slot[level][slot]; head.next != head {
			return i
		}
		w.used[level][slot/64] &^= 1 << (slot % 64)
		i++
	}
	return 0
}
