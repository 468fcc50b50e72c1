package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"unproxy/gateway/engine"
	"unproxy/trust"
)

// lists loads lists of addresses, each only once, however many forwards share
// it: what is wrong with a list is told once.
type lists struct {
	loaded map[string]*trust.Set
}

// resolve loads the lists of d into its forward. A list that is broken leaves
// a set that holds nobody, so that nothing follows from its absence.
func (l *lists) resolve(d *draft) ([]Warning, error) {
	var warnings []Warning
	var errs []error
	for _, want := range []struct {
		list list
		into *engine.Addresses
		// ofPeers: the warnings of package trust speak of who may name a
		// client, which the other lists do not say.
		ofPeers bool
	}{
		{d.trust, &d.forward.Trust, true},
		{d.health, &d.forward.Health, false},
		{d.allowDestination, &d.forward.AllowDestination, false},
	} {
		set, w, err := l.load(want.list)
		if set != nil {
			*want.into = set
		}
		errs = append(errs, err)
		if want.ofPeers {
			warnings = append(warnings, w...)
		}
	}
	allow, _, err := l.load(d.allowSource)
	if allow != nil {
		d.forward.Source.Allow = allow
	}
	return warnings, errors.Join(append(errs, err)...)
}

// load returns the set of a list, nil for one that was not given. A list that
// was loaded before has no warnings and no error a second time.
func (l *lists) load(from list) (*trust.Set, []Warning, error) {
	if len(from.rules) == 0 && len(from.files) == 0 {
		return nil, nil, nil
	}
	key := fmt.Sprintf("%q %q %q", from.flag, from.rules, from.files)
	if set, ok := l.loaded[key]; ok {
		return set, nil, nil
	}
	set, told, err := trust.Load(trust.Source{Rules: from.rules, Files: from.files, Flag: from.flag})
	if err != nil {
		set = &trust.Set{}
	}
	if l.loaded == nil {
		l.loaded = make(map[string]*trust.Set)
	}
	l.loaded[key] = set
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

// rulesOf returns the rules behind a set of addresses, where it is known by
// rules.
func rulesOf(a engine.Addresses) []trust.Rule {
	set, ok := a.(*trust.Set)
	if !ok {
		return nil
	}
	return set.Rules()
}

// overlap returns a rule of each set such that the two share an address.
func overlap(a, b engine.Addresses) (one, other trust.Rule, found bool) {
	for _, x := range rulesOf(a) {
		for _, y := range rulesOf(b) {
			if x.Prefix.Overlaps(y.Prefix) {
				return x, y, true
			}
		}
	}
	return one, other, false
}

// everybody reports whether a set holds a whole address family.
func everybody(a engine.Addresses) bool {
	for _, r := range rulesOf(a) {
		if r.Prefix.Bits() == 0 {
			return true
		}
	}
	return false
}

// loopback reports whether a host, an address or a name, is this one for sure.
func loopback(b engine.Backend) bool {
	name := strings.TrimSuffix(strings.ToLower(b.Host), ".")
	return b.Endpoint.Addr.Addr().IsLoopback() || name == "localhost"
}

// covers reports whether a listener takes connections to addr.
func covers(l engine.Listener, addr netip.AddrPort) bool {
	at := l.Endpoint.Addr
	if !at.IsValid() || at.Port() != addr.Port() {
		return false
	}
	if at.Addr() == addr.Addr() {
		return true
	}
	wildcard := at.Addr().IsUnspecified()
	sameFamily := at.Addr().Is4() == addr.Addr().Is4()
	return wildcard && (sameFamily || l.DualStack)
}
