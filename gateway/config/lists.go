package config

import (
	"errors"
	"fmt"

	"unproxy/trust"
)

// lists loads lists of addresses, each only once, however many forwards share
// it: what is wrong with a list is told once, and one replacement is for all.
type lists struct {
	loaded map[string]*trust.Live
	all    []liveList
}

// liveList is a list of addresses and where it comes from, so that it can be
// loaded again.
type liveList struct {
	source trust.Source
	live   *trust.Live
	// ofPeers: the warnings of package trust speak of who may name a
	// client, which the other lists do not say.
	ofPeers bool
	// tried is the fingerprint of the files before they were read last.
	tried string
}

// resolve loads the lists of d into its forward. A list that is broken leaves
// a set that holds nobody, so that nothing follows from its absence.
func (l *lists) resolve(d *draft) ([]Warning, error) {
	var warnings []Warning
	var errs []error
	for _, want := range []struct {
		list    list
		into    func(*trust.Live)
		ofPeers bool
	}{
		{d.trust, func(set *trust.Live) { d.forward.Trust = set }, true},
		{d.health, func(set *trust.Live) { d.forward.Health = set }, false},
		{d.allowDestination, func(set *trust.Live) { d.forward.AllowDestination = set }, false},
		{d.allowSource, func(set *trust.Live) { d.forward.Source.Allow = set }, false},
	} {
		set, told, err := l.load(want.list, want.ofPeers)
		if set != nil {
			want.into(set)
		}
		warnings = append(warnings, told...)
		errs = append(errs, err)
	}
	return warnings, errors.Join(errs...)
}

// load returns the set of a list, nil for one that was not given. A list that
// was loaded before has no warnings and no error a second time.
func (l *lists) load(from list, ofPeers bool) (*trust.Live, []Warning, error) {
	if len(from.rules) == 0 && len(from.files) == 0 {
		return nil, nil, nil
	}
	key := fmt.Sprintf("%q %q %q", from.flag, from.rules, from.files)
	if set, ok := l.loaded[key]; ok {
		return set, nil, nil
	}
	fresh := liveList{
		source:  trust.Source{Rules: from.rules, Files: from.files, Flag: from.flag},
		live:    trust.NewLive(nil),
		ofPeers: ofPeers,
	}
	set, warnings, err := fresh.load()
	fresh.live.Replace(set)
	if l.loaded == nil {
		l.loaded = make(map[string]*trust.Live)
	}
	l.loaded[key] = fresh.live
	l.all = append(l.all, fresh)
	return fresh.live, warnings, err
}

// load reads the list and puts it in force nowhere.
func (l *liveList) load() (*trust.Set, []Warning, error) {
	l.tried = trust.Fingerprint(l.source.Files)
	set, told, err := trust.Load(l.source)
	if !l.ofPeers {
		return set, nil, err
	}
	warnings := make([]Warning, len(told))
	for i, w := range told {
		warnings[i] = Warning{Message: w.String(), About: AboutTrust}
	}
	return set, warnings, err
}

// nameLists says after what the rules were written, for the lists that have no
// such name yet.
func (d *draft) nameLists(after func(name string) string) {
	for name, l := range map[string]*list{
		"trust":             &d.trust,
		"health-source":     &d.health,
		"allow-source":      &d.allowSource,
		"allow-destination": &d.allowDestination,
	} {
		if d.given[name] || name == "trust" && d.given["trust-file"] {
			l.flag = after(name)
		}
	}
}
