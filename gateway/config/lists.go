package config

import (
	"errors"
	"fmt"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
	"unproxy/trust"
)

// listKind is the purpose of an address list.
type listKind int

// The kinds of lists.
const (
	trustList listKind = iota
	healthList
	allowDestinationList
	allowSourceList
)

// listKinds has for each kind the flag for its rules, whether it holds peers that
// may name a client, and the field of a forward that it sets. The flag with the
// suffix -file names files for the same list.
var listKinds = [...]struct {
	flag    string
	ofPeers bool
	put     func(*forward.Forward, *trust.Live)
}{
	trustList: {trustFlag, true,
		func(f *forward.Forward, set *trust.Live) { f.Trust = set }},
	healthList: {"health-source", false,
		func(f *forward.Forward, set *trust.Live) { f.Health = set }},
	allowDestinationList: {"allow-destination", false,
		func(f *forward.Forward, set *trust.Live) { f.AllowDestination = set }},
	allowSourceList: {"allow-source", false,
		func(f *forward.Forward, set *trust.Live) { f.Source.Allow = set }},
}

// list is an address list before it is loaded.
type list struct {
	rules, files []string
	// flag is the origin of the rules, for messages.
	flag string
}

// lists loads lists of addresses. Forwards with equal lists share one: its
// problems are reported once, and a reload replaces it once.
type lists struct {
	loaded map[string]*trust.Live
	all    []liveList
	files  *trust.Files
}

// liveList is an address list that can be reloaded.
type liveList struct {
	source trust.Source
	live   *trust.Live
	// ofPeers means that the list holds trusted peers. Warnings of package trust
	// apply only to those.
	ofPeers bool
	// tried is the fingerprint of the files when they were last read.
	tried string
}

// resolve loads the lists of d into its forward. An invalid list becomes an empty
// set, so that it is not reported as missing, too.
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

// load returns the set of a list, or nil if the list was not given. It returns
// the warnings and errors of a shared list only once.
func (l *lists) load(from list, ofPeers bool) (*trust.Live, []Warning, error) {
	if len(from.rules) == 0 && len(from.files) == 0 {
		return nil, nil, nil
	}
	if l.loaded == nil {
		l.loaded, l.files = make(map[string]*trust.Live), new(trust.Files)
	}
	key := fmt.Sprintf("%q %q %q", from.flag, from.rules, from.files)
	if set, ok := l.loaded[key]; ok {
		return set, nil, nil
	}
	fresh := liveList{
		source: trust.Source{
			Rules: from.rules, Files: from.files, Flag: from.flag, Reader: l.files, Nearest: value.Nearest,
		},
		live:    trust.NewLive(nil),
		ofPeers: ofPeers,
	}
	set, warnings, err := fresh.load()
	fresh.live.Replace(set)
	l.loaded[key] = fresh.live
	l.all = append(l.all, fresh)
	return fresh.live, warnings, err
}

// load reads the list. It does not replace the live set.
func (l *liveList) load() (*trust.Set, []Warning, error) {
	l.tried = l.source.Reader.Fingerprint(l.source.Files)
	set, doubts, err := trust.Load(l.source)
	if !l.ofPeers {
		return set, nil, err
	}
	warnings := make([]Warning, len(doubts))
	for i, w := range doubts {
		warnings[i] = Warning{Message: w.String(), About: AboutTrust}
	}
	return set, warnings, err
}

// Rules returns the current rules of a set of addresses, or nil if the set does not
// consist of rules.
func Rules(a forward.Addresses) []trust.Rule {
	switch set := a.(type) {
	case *trust.Set:
		return set.Rules()
	case *trust.Live:
		return set.Set().Rules()
	}
	return nil
}
