package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/transparent"
)

// draft is a forward under construction.
type draft struct {
	forward.Forward
	// toaSources become the forward's source addresses if it uses a TCP option.
	toaSources []netip.Prefix
	// given holds the names of the settings that were given: flags in the draft
	// common to all forwards, keys in that of one forward.
	given map[string]bool
	// lists are the address lists, which are loaded last.
	lists [len(listKinds)]list
}

// newDraft returns a draft with the defaults.
func newDraft() draft {
	return draft{
		given: map[string]bool{},
		Forward: forward.Forward{
			SocketMode:     0o660,
			Header:         proxyproto.Options{MaxLength: 16 << 10},
			Headers:        1,
			HeaderTimeout:  5 * time.Second,
			ConnectTimeout: 5 * time.Second,
			BackendRetry:   10 * time.Second,
			Keepalive:      15 * time.Second,
			FlowTimeout:    60 * time.Second,
			Source: transparent.Policy{
				SourcePort: transparent.Prefer, FamilyMismatch: transparent.Reject,
				MapPrefix: netip.MustParsePrefix("64:ff9b::/96"),
			},
		},
	}
}

// take stores the values of s in d. Only a switch may have an empty value. After an error
// the previous value stays, so that validation does not report the same fault again.
func (d *draft) take(s *Setting, texts []string) error {
	if !s.Switch && slices.Contains(texts, "") {
		return &value.Error{Why: "is empty: the value is " + s.Argument}
	}
	d.given[s.Name] = true
	before := d.Forward
	err := s.forward(d, texts)
	if err != nil {
		d.Forward = before
	}
	return err
}

// dropLists empties the common lists that keys replace. A flag and its -file
// variant form one list, so a key for either replaces both: a forward with its own
// trusted peers must not trust the common ones, too.
func (d *draft) dropLists(keys Values) {
	for kind, k := range listKinds {
		if keys[k.flag] != nil || keys[k.flag+"-file"] != nil {
			d.lists[kind] = list{}
		}
	}
}

// nameLists records for messages where the rules of the lists were written.
func (d *draft) nameLists(prefix string) {
	for kind, k := range listKinds {
		if d.given[k.flag] || d.given[k.flag+"-file"] {
			d.lists[kind].flag = prefix + k.flag
		}
	}
}

// settle drops common settings that do not apply to this forward, and sets the
// defaults that depend on other settings. common holds the names of the common
// settings that were given.
func (d *draft) settle(common map[string]bool) {
	if d.Datagrams {
		d.TProxy, d.Redirect = false, nil // only TCP connections are redirected
	}
	switch {
	case d.Transparent && d.TOA.On:
		d.SourceAddresses = d.toaSources
	case d.Transparent:
		d.SourceAddresses = nil
	}
	if d.Transparent && !d.given[unknownFlag] && !common[unknownFlag] {
		d.RejectUnknown = true
	}
	if !d.given[onDemandFlag] && !common[onDemandFlag] {
		d.OnDemand = len(d.Listeners) > 1
	}
	if !d.TProxy && !d.given[redirectFlag] {
		d.Redirect = nil
	}
}

// key parses one key of a forward.
func (p *problems) key(d *draft, name string, texts []string) {
	s := Find(name)
	switch {
	case s == nil || !s.IsKey():
		p.add(fmt.Sprintf("unknown key %q", value.Shorten(name)), keyHint(s, name))
		return
	case len(texts) > 1 && !s.Repeatable:
		p.add(fmt.Sprintf("key %q is given %d times", name, len(texts)),
			"give it once: ?"+name+"="+value.Shorten(last(texts)))
		return
	}
	if err := d.take(s, texts); err != nil {
		p.add(fmt.Sprintf("%s %q %v", name, value.Shorten(atFault(texts, err)), err), valueHint(err, "?"+name+"="))
	}
}

// keyHint returns the hint for an unknown key. s is the setting with that name,
// which does not apply to forwards, or nil.
func keyHint(s *Setting, name string) string {
	if s != nil {
		return "this setting is for the whole process: --" + name + " " + s.Argument
	}
	var names []string
	for i := range table {
		if table[i].IsKey() {
			names = append(names, table[i].Name)
		}
	}
	if near := value.Nearest(name, names); near != "" {
		return "did you mean ?" + near + "?"
	}
	return "the keys are the flags of the groups Trust to Connections without their dashes, see unproxy --help"
}

// separateFamilies limits a listener written [::]:PORT to IPv6 if another
// listener has the same port for IPv4, whose connections it would otherwise
// take. A listener written :PORT keeps both families.
func separateFamilies(drafts []draft) {
	type service struct {
		datagrams bool
		port      uint16
	}
	taken := map[service]bool{}
	each(drafts, func(f *forward.Forward, l *forward.Listener) {
		if a := l.Endpoint.Addr; a.IsValid() && a.Addr().Is4() {
			taken[service{f.Datagrams, a.Port()}] = true
		}
	})
	each(drafts, func(f *forward.Forward, l *forward.Listener) {
		port, name := l.Endpoint.Addr.Port(), strings.TrimPrefix(l.Name, "udp://")
		if l.DualStack && strings.HasPrefix(name, "[") && port != 0 && taken[service{f.Datagrams, port}] {
			l.DualStack = false
		}
	})
}

func each(drafts []draft, do func(*forward.Forward, *forward.Listener)) {
	for i := range drafts {
		f := &drafts[i].Forward
		for j := range f.Listeners {
			do(f, &f.Listeners[j])
		}
	}
}
