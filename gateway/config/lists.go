package config

import (
	"errors"
	"fmt"

	"unproxy/gateway/forward"
	"unproxy/trust"
)

// listKind is what a list of addresses is for.
type listKind int

// The kinds of lists.
const (
	trustList listKind = iota
	healthList
	allowDestinationList
	allowSourceList
)

// listKinds says of each kind by which flag its rules are given, whether it
// holds peers that may name a client, and which part of a forward it is. A flag
// with -file behind it gives files of the same list.
var listKinds = [...]struct {
	flag    string
	ofPeers bool
	put     func(*forward.Forward, *trust.Live)
}{
	trustList:            {trustFlag, true, func(f *forward.Forward, set *trust.Live) { f.Trust = set }},
	healthList:           {"health-source", false, func(f *forward.Forward, set *trust.Live) { f.Health = set }},
	allowDestinationList: {"allow-destination", false, func(f *forward.Forward, set *trust.Live) { f.AllowDestination = set }},
	allowSourceList:      {"allow-source", false, func(f *forward.Forward, set *trust.Live) { f.Source.Allow = set }},
}

// list is a list of addresses before it is loaded.
type list struct {
	rules, files []string
	// flag is what the rules were written after, for messages.
	flag string
}

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
	for kind, k := range listKinds {
		set, more, err := l.load(d.lists[kind], k.ofPeers)
		if set != nil {
			k.put(&d.Forward, set)
		}
		warnings = append(warnings, more...)
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

// Rules returns the current rules of a set of addresses, or nil if the set is not
// made of rules.
func Rules(a forward.Addresses) []trust.Rule {
	switch set := a.(type) {
	case *trust.Set:
		return set.Rules()
	case *trust.Live:
		return set.Set().Rules()
	}
	return nil
}
