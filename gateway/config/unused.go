package config

import (
	"slices"

	"unproxy/gateway/engine"
)

// idle warns of settings that were given and do nothing.
func (l *loader) idle(common draft, drafts []draft) {
	for _, r := range idleRules() {
		used := false
		for i := range drafts {
			d := &drafts[i]
			applies := r.applies(&d.forward)
			used = used || applies
			if d.given[r.name] && !applies {
				l.warn("forward "+d.forward.Listeners[0].Name+": "+r.name+" does nothing "+r.without, "")
			}
		}
		if common.given[r.name] && !used && len(drafts) > 0 {
			l.warn("--"+r.name+" does nothing "+r.without, "")
		}
	}
	spoofs := slices.ContainsFunc(drafts, func(d draft) bool { return d.forward.Transparent })
	if len(l.src.Settings[selfTestInterval]) > 0 && !spoofs && len(drafts) > 0 {
		l.warn("--"+selfTestInterval+" does nothing without --transparent on", "")
	}
}

// idleRule says where a setting has an effect.
type idleRule struct {
	name    string
	without string
	applies func(*engine.Forward) bool
}

func idleRules() []idleRule {
	rules := []idleRule{
		{"allow-destination", "without the backend \"header\"", LeadsAnywhere},
		{"socket-mode", "without a unix listener", hasUnixListener},
		{"require-checksum", "where only v1 is accepted", func(f *engine.Forward) bool { return !f.Header.RefuseV2 }},
		{"max-header", "where only v1 is accepted", func(f *engine.Forward) bool { return !f.Header.RefuseV2 }},
		{"v1-ipv4-in-tcp6", "where only v2 is accepted", func(f *engine.Forward) bool { return !f.Header.RefuseV1 }},
	}
	for _, s := range Settings() {
		if s.transparentOnly {
			rules = append(rules, idleRule{s.Name, "without --transparent on", func(f *engine.Forward) bool { return f.Transparent }})
		}
		if s.Group == GroupDatagram {
			rules = append(rules, idleRule{s.Name, "without a udp:// forward", func(f *engine.Forward) bool { return f.Datagrams }})
		}
		if s.streamOnly {
			rules = append(rules, idleRule{s.Name, "for udp:// forwards", func(f *engine.Forward) bool { return !f.Datagrams }})
		}
		if s.headerOnly {
			rules = append(rules, idleRule{s.Name, "with the headers of --udp-header spp", hasProxyHeaders})
		}
	}
	return rules
}

func hasProxyHeaders(f *engine.Forward) bool {
	return !f.Datagrams || f.DatagramHeader != engine.SimpleProxy
}
