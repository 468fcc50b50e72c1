package trust

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"sync/atomic"
)

// Live is a [Set] that can be replaced while others ask it. Its zero value
// trusts nobody. All methods may be called from any goroutine, and none of them
// waits for another.
type Live struct{ set atomic.Pointer[Set] }

// NewLive returns a Live that is s until it is replaced.
func NewLive(s *Set) *Live {
	l := new(Live)
	l.set.Store(s)
	return l
}

// Contains is [Set.Contains] of the set that holds now.
func (l *Live) Contains(a netip.Addr) bool { return l.set.Load().Contains(a) }

// Admit is [Set.Admit] of the set that holds now, whose counters begin at zero.
func (l *Live) Admit(a netip.Addr, shard int) bool { return l.set.Load().Admit(a, shard) }

// Hits is [Set.Hits] of the set that holds now.
func (l *Live) Hits() []RuleHits { return l.set.Load().Hits() }

// Set returns the set that holds now; it may be nil, which trusts nobody.
func (l *Live) Set() *Set { return l.set.Load() }

// Replace puts s in the place of the set that holds now.
func (l *Live) Replace(s *Set) { l.set.Store(s) }

// Fingerprint returns a short text that changes with what is in the files, and
// with whether they can be read. It goes by content and not by time or inode,
// so that it sees a link that leads elsewhere, as ConfigMaps change, and is not
// taken in by a file that was written again as it was.
func Fingerprint(files []string) string {
	h := sha256.New()
	for _, name := range files {
		text, err := readFile(name)
		if err != nil {
			text = err.Error()
		}
		fmt.Fprintf(h, "%q %t %d\n%s", name, err == nil, len(text), text)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
