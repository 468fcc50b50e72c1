package config

import (
	"errors"
	"fmt"
	"slices"

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
	directList
	allowClientList
	denyClientList
	allowDestinationList
	allowSourceList
)

// listKinds has for each kind the flag for its rules, which warnings of package trust
// apply, whether it may be empty, and the field of a forward that it sets. The flag with
// the suffix -file names files for the same list.
var listKinds = [...]struct {
	flag       string
	doubts     doubts
	allowEmpty bool
	put        func(*forward.Forward, *trust.Live)
}{
	trustList: {trustFlag, allDoubts, false,
		func(f *forward.Forward, set *trust.Live) { f.Trust = set }},
	healthList: {"health-source", noDoubts, false,
		func(f *forward.Forward, set *trust.Live) { f.Health = set }},
	directList: {directFlag, redundantRules, false,
		func(f *forward.Forward, set *trust.Live) { f.Direct = set }},
	allowClientList: {allowClientFlag, redundantRules, false,
		func(f *forward.Forward, set *trust.Live) { f.AllowClient = set }},
	denyClientList: {denyClientFlag, redundantRules, true,
		func(f *forward.Forward, set *trust.Live) { f.DenyClient = set }},
	allowDestinationList: {"allow-destination", noDoubts, false,
		func(f *forward.Forward, set *trust.Live) { f.AllowDestination = set }},
	allowSourceList: {"allow-source", noDoubts, false,
		func(f *forward.Forward, set *trust.Live) { f.Source.Allow = set }},
}

// doubts says which warnings of package trust apply to a list.
type doubts uint8

const (
	noDoubts       doubts = iota
	redundantRules        // that have no effect
	allDoubts             // the list holds peers that may name a client
)

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
	doubts doubts
	// between are lists whose more specific rules take precedence over this one's: of
	// trusted and direct peers, in any of the forwards.
	between []*trust.Live
	// tried is the fingerprint of the files when they were last read.
	tried string
}

// resolve loads the lists of d into its forward. An invalid list becomes an empty
// set, so that it is not reported as missing, too.
func (l *lists) resolve(d *draft) ([]Warning, error) {
	var warnings []Warning
	var errs []error
	var loaded [len(listKinds)]*trust.Live
	for kind, k := range listKinds {
		set, more, err := l.load(d.lists[kind], listKind(kind))
		if loaded[kind] = set; set != nil {
			k.put(&d.Forward, set)
		}
		warnings = append(warnings, more...)
		errs = append(errs, err)
	}
	l.decides(loaded[trustList], loaded[directList])
	l.decides(loaded[directList], loaded[trustList])
	return warnings, errors.Join(errs...)
}

// decides notes that the more specific rule of two lists decides.
func (l *lists) decides(of, between *trust.Live) {
	if of == nil || between == nil {
		return
	}
	for i := range l.all {
		if one := &l.all[i]; one.live == of && !slices.Contains(one.between, between) {
			one.between = append(one.between, between)
		}
	}
}

// redundant warns of rules without effect, when all lists are loaded.
func redundant(all []liveList) (warnings []Warning) {
	for i := range all {
		l := &all[i]
		if l.doubts == noDoubts {
			continue
		}
		var between []*trust.Set
		for _, other := range l.between {
			between = append(between, other.Set())
		}
		for _, w := range l.live.Set().Redundant(between...) {
			one := Warning{Message: w.String()}
			if l.doubts == allDoubts {
				one.About = AboutTrust
			}
			warnings = append(warnings, one)
		}
	}
	return warnings
}

// load returns the set of a list, or nil if the list was not given. It returns
// the warnings and errors of a shared list only once.
func (l *lists) load(from list, kind listKind) (*trust.Live, []Warning, error) {
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
			AllowEmpty: listKinds[kind].allowEmpty,
		},
		live:   trust.NewLive(nil),
		doubts: listKinds[kind].doubts,
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
	set, all, err := trust.Load(l.source)
	var warnings []Warning
	for _, w := range all {
		if l.doubts == allDoubts && !w.Redundant { // for those see redundant
			warnings = append(warnings, Warning{Message: w.String(), About: AboutTrust})
		}
	}
	return set, warnings, err
}

// Rules returns the current rules of a set of addresses, or nil if the set does not
// consist of rules.
func Rules(a forward.Addresses) []trust.Rule {
	return setOf(a).Rules()
}

// CountRules returns how many [Rules] a set of addresses has.
func CountRules(a forward.Addresses) int { return setOf(a).Len() }
