package returnpath

import (
	"fmt"
	"hash/fnv"
	"slices"
)

// Targets is what a return path has to cover, before names are resolved and
// before the host is asked how it reaches each backend.
type Targets struct {
	Backends  []Target
	Redirects []Redirect
	Options   Options
}

// Target is a backend as a configuration names it. Its place is not known yet.
type Target struct {
	// Host is a name, which stands for Backend.Addr once it is resolved; "" is
	// a backend whose address is known.
	Host string
	Backend
}

// The values of [Options.Owner]. No number of rt_protos from iproute2 is among
// them.
const (
	// DefaultOwner is the owner of a plan whose backends have no names.
	DefaultOwner = 100
	lastOwner    = 185
)

// IsOwner reports whether a label is one that [Targets.Owner] can return.
func IsOwner(label uint8) bool { return DefaultOwner <= label && label <= lastOwner }

// Owner returns a label for what belongs to the named backends of t, whatever
// their names resolve to: rules and tables with this label that t does not need
// any more are those of an earlier address. It is [DefaultOwner] if no backend has
// a name. Other targets may have the same label by chance, in one of 85 cases.
func (t Targets) Owner() uint8 {
	var names []string
	for _, b := range t.Backends {
		if b.Host != "" {
			names = append(names, fmt.Sprintf("%s:%s/%s", b.Host, b.Ports, b.protocol()))
		}
	}
	if len(names) == 0 {
		return DefaultOwner
	}
	slices.Sort(names)
	hash := fnv.New32a()
	for _, name := range slices.Compact(names) {
		fmt.Fprintln(hash, name)
	}
	return DefaultOwner + 1 + uint8(hash.Sum32()%(lastOwner-DefaultOwner))
}
