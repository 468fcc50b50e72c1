package accesslog

import (
	"sync/atomic"
	"time"

	"unproxy/gateway/record"
)

// perSecond is the number of lines of one outcome that are written in a
// second. It is enough to see what is going on, and few enough for a disk.
const perSecond = 10

// flood thins out the lines of one outcome.
type flood struct {
	window atomic.Uint64 // the second in the upper half, its lines in the lower
	left   atomic.Uint64 // lines left out and not yet told of
}

// admit reports whether a line of this moment may be written, and counts it as
// left out otherwise.
func (f *flood) admit(now time.Time) bool {
	second := uint64(uint32(now.Unix())) << 32
	for {
		w := f.window.Load()
		if w&^0xffffffff != second {
			if f.window.CompareAndSwap(w, second|1) {
				return true
			}
			continue
		}
		if uint32(w) >= perSecond {
			f.left.Add(1)
			return false
		}
		if f.window.CompareAndSwap(w, w+1) {
			return true
		}
	}
}

// isThinned reports whether lines of an outcome are thinned out. Connections
// that did their work are not: an access log that leaves out some of them is
// none.
func isThinned(o record.Outcome) bool { return o.Severity() >= record.Warn }
