package accesslog

import (
	"sync/atomic"
	"time"

	"unproxy/gateway/record"
)

// perSecond is the number of lines per second that are written for one outcome:
// enough to diagnose a problem, and few enough for any disk.
const perSecond = 10

// flood limits the rate of the lines of one outcome. It may be used from any
// number of goroutines.
type flood struct {
	window  atomic.Uint64 // upper half: the current second; lower half: its lines
	leftOut atomic.Uint64 // lines left out and not reported yet
}

// admit reports whether a line may be written now. If not, it counts the line as
// left out.
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
			f.leftOut.Add(1)
			return false
		}
		if f.window.CompareAndSwap(w, w+1) {
			return true
		}
	}
}

// isLimited reports whether the lines of an outcome are limited in their rate.
// Connections that were served always have a line: an access log must be
// complete.
func isLimited(o record.Outcome) bool { return o.Refused() }
