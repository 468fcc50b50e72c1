package config

import (
	"unproxy/gateway/forward"
	"unproxy/transparent"
)

// Need is a set of properties. A setting has an effect only on a forward that has
// all of them.
type Need uint16

// The properties.
const (
	NeedsTransparent Need = 1 << iota
	NeedsStream
	NeedsDatagrams
	NeedsHeader // a PROXY header and not Simple Proxy Protocol
	NeedsV1
	NeedsV2
	NeedsUnixListener
	NeedsHeaderBackend
	NeedsReturnPath    // a client's address to connect from, or tproxy
	NeedsClientAddress // transparent without toa
	NeedsTOA
	NeedsPlain
	NeedsMap     // --family-mismatch map
	NeedsAddress // a backend that is no unix socket
	NeedsInternetListener
)

// needs has for each property the description of a forward without it, and the
// test whether a forward has it.
var needs = []struct {
	need    Need
	without string
	has     func(*forward.Forward) bool
}{
	{NeedsStream, "for udp:// forwards", func(f *forward.Forward) bool { return !f.Datagrams }},
	{NeedsDatagrams, "without a udp:// forward", func(f *forward.Forward) bool { return f.Datagrams }},
	{NeedsHeader, "with the headers of --udp-header spp", func(f *forward.Forward) bool {
		return !f.Datagrams || f.DatagramHeader != forward.SimpleProxy
	}},
	{NeedsV1, "where only v2 is accepted", func(f *forward.Forward) bool { return !f.Header.RefuseV1 }},
	{NeedsV2, "where only v1 is accepted", func(f *forward.Forward) bool { return !f.Header.RefuseV2 }},
	{NeedsTransparent, "without --transparent on", func(f *forward.Forward) bool { return f.Transparent }},
	{NeedsClientAddress, "without --transparent on", (*forward.Forward).ConnectsAsClient},
	{NeedsTOA, "without --transparent toa", func(f *forward.Forward) bool { return f.Transparent && f.TOA.On }},
	{NeedsReturnPath, "without --transparent on or --tproxy", func(f *forward.Forward) bool {
		return f.ConnectsAsClient() || f.TProxy
	}},
	{NeedsMap, "without --family-mismatch map", func(f *forward.Forward) bool {
		return f.Source.FamilyMismatch == transparent.Map
	}},
	{NeedsPlain, "with --transparent", func(f *forward.Forward) bool { return !f.Transparent }},
	{NeedsAddress, "with backends on unix sockets", func(f *forward.Forward) bool {
		return f.AnyBackend(func(b forward.Backend) bool { return !b.Endpoint.IsUnix() })
	}},
	{NeedsUnixListener, "without a unix listener", (*forward.Forward).HasUnixListener},
	{NeedsInternetListener, "for a unix listener: its peers have no address", (*forward.Forward).HasInternetListener},
	{NeedsHeaderBackend, "without the backend \"header\"", (*forward.Forward).HasHeaderBackend},
}

// missing describes the first property of n that f does not have, or returns "".
func (n Need) missing(f *forward.Forward) string {
	for _, one := range needs {
		if n&one.need != 0 && !one.has(f) {
			return one.without
		}
	}
	return ""
}

// unused warns of settings that have no effect.
func (l *loader) unused(drafts []draft) {
	for i := range table {
		s := &table[i]
		used, without := false, ""
		for j := range drafts {
			d := &drafts[j]
			missing := s.Needs.missing(&d.Forward)
			if missing == "" {
				used = true
				continue
			}
			without = missing
			if d.given[s.Name] {
				l.warn("forward "+d.Listeners[0].Name+": "+s.Name+" has no effect "+missing, "")
			}
		}
		if !used && without != "" && l.given(s.Name) {
			l.warn("--"+s.Name+" has no effect "+without, "")
		}
	}
}
