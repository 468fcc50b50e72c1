package transparent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The routing table and the rules' preference that the return path uses unless
// told otherwise.
const (
	DefaultTable      = 7700
	DefaultPreference = 7700
)

// ReturnPath is the routes and rules that bring replies to foreign addresses
// back to the gateway. It is data: nothing happens before [ReturnPath.Apply].
// The zero value is empty.
type ReturnPath struct {
	Routes []Route
	Rules  []Rule
}

// Route says that every address of its family is local to the host, to whoever
// looks it up in Table.
type Route struct {
	IPv6  bool
	Table uint32
}

// String returns the route as a command of ip-route(8).
func (r Route) String() string {
	return fmt.Sprintf("%s route replace local default dev lo table %d", ip(r.IPv6), r.Table)
}

// Rule sends the packets of one backend to Table.
type Rule struct {
	// From is the backend's address.
	From netip.Prefix
	// In is the interface that the packets come from; "lo" stands for those
	// that this host sends itself.
	In string
	// Protocol is "tcp" or "udp".
	Protocol string
	// SourcePort is the backend's port.
	SourcePort uint16
	Table      uint32
	// Preference is the rule's place among all rules, the lowest first. The
	// rule of the local table has 0, those of the other tables 32766 and up.
	Preference uint32
}

// String returns the rule as a command of ip-rule(8).
func (r Rule) String() string {
	return fmt.Sprintf("%s rule add from %s iif %s ipproto %s sport %d lookup %d pref %d",
		ip(r.From.Addr().Is6()), r.From, r.In, r.Protocol, r.SourcePort, r.Table, r.Preference)
}

func ip(v6 bool) string {
	if v6 {
		return "ip -6"
	}
	return "ip"
}

// SameHost returns the return path for TCP backends on the gateway's own host:
// a rule for each backend, and a route for each family. Backends are unmapped;
// what occurs twice counts once.
//
// The rules are narrow on purpose. The well-known "from 127.0.0.1/8 iif lo"
// swallows whatever else answers from loopback, among it ports that are
// published on 127.0.0.1 by DNAT. They match on whence a packet comes and not
// on whither it goes, so stand-ins (see [StandIn]) need none of their own.
func SameHost(backends []netip.AddrPort, table, preference uint32) ReturnPath {
	var p ReturnPath
	for _, b := range backends {
		a := b.Addr().Unmap()
		p.Routes = appendNew(p.Routes, Route{IPv6: a.Is6(), Table: table})
		p.Rules = appendNew(p.Rules, Rule{
			From:       netip.PrefixFrom(a, a.BitLen()),
			In:         "lo",
			Protocol:   "tcp",
			SourcePort: b.Port(),
			Table:      table,
			Preference: preference,
		})
	}
	return p
}

func appendNew[T comparable](s []T, v T) []T {
	if slices.Contains(s, v) {
		return s
	}
	return append(s, v)
}

// String returns the commands of iproute2, a line each, that [ReturnPath.Apply]
// stands for.
func (p ReturnPath) String() string {
	var b strings.Builder
	for _, r := range p.Routes {
		fmt.Fprintln(&b, r)
	}
	for _, r := range p.Rules {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}
