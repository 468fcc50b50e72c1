package gateway

import (
	"errors"
	"strings"
	"sync"
	"time"

	"unproxy/trust"
)

// Reloaded is what a reload came to.
type Reloaded struct {
	// Lists is the number of lists that were read, and Rules that of the rules
	// in them.
	Lists, Rules int
	// Warnings are of rules that work but may not be meant.
	Warnings []Warning
}

// ReloadState is how the reloads went so far. The lists of the start do not
// count.
type ReloadState struct {
	// Succeeded and Failed count reloads.
	Succeeded, Failed uint64
	// LastSuccess is when one succeeded last; the zero time is never.
	LastSuccess time.Time
	// LastError is why the last one failed; nil if it did not.
	LastError error
}

// reloads is what a gateway keeps of its reloads.
type reloads struct {
	sync.Mutex
	now   func() time.Time
	state ReloadState
	seen  string // the fingerprint of the files when Changed looked last
}

// Reload reads every list of addresses anew, the rules of flags with their
// templates and the files, and puts all of them in force, or on any error none:
// then the old ones stay. The backends' names are looked up again, too.
//
// A peer that is no longer trusted keeps the connections that it has, unless
// its forward says otherwise ([engine.Forward.CutUntrusted]). The error joins
// what [Load] would say of the lists.
func (g *Gateway) Reload() (Reloaded, error) {
	g.reloads.Lock()
	defer g.reloads.Unlock()
	g.engine.Resolve()
	done, err := g.reload()
	g.reloads.state.LastError = err
	if err != nil {
		g.reloads.state.Failed++
		return done, err
	}
	g.reloads.state.Succeeded++
	g.reloads.state.LastSuccess = g.reloads.now()
	g.engine.Recheck()
	return done, nil
}

func (g *Gateway) reload() (Reloaded, error) {
	lists := g.config.lists
	done := Reloaded{Lists: len(lists)}
	fresh := make([]*trust.Set, len(lists))
	var errs []error
	for i := range lists {
		set, warnings, err := lists[i].load()
		fresh[i] = set
		done.Rules += set.Len()
		done.Warnings = append(done.Warnings, warnings...)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return done, err
	}
	for i := range lists {
		lists[i].live.Replace(fresh[i])
	}
	return done, nil
}

// Changed reports whether the files of the lists have changed since they were
// read last, in content. It is to be asked again and again: a change is one only
// when it looks the same twice in a row, so that a file which is being written
// is left alone. What failed to load does not count again until it has changed.
func (g *Gateway) Changed() bool {
	g.reloads.Lock()
	defer g.reloads.Unlock()
	var tried, now strings.Builder
	for i := range g.config.lists {
		l := &g.config.lists[i]
		tried.WriteString(l.tried)
		now.WriteString(trust.Fingerprint(l.source.Files))
	}
	before := g.reloads.seen
	g.reloads.seen = now.String()
	return g.reloads.seen != tried.String() && g.reloads.seen == before
}

// Reloads returns how the reloads went so far.
func (g *Gateway) Reloads() ReloadState {
	g.reloads.Lock()
	defer g.reloads.Unlock()
	return g.reloads.state
}
