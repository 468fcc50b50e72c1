package returnpath_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"unproxy/transparent/returnpath"
)

// What a table contains decides whether replies arrive without it, and whether it
// reassembles fragments.
func TestFilterOf(t *testing.T) {
	link, own := backend("10.9.0.2:25", container), backend("10.0.0.5:25", local)
	ruled := backend("udp 10.9.0.2:53", container)
	redirect := returnpath.Redirect{Ports: returnpath.AllPorts, To: netip.MustParseAddrPort("[::]:7000")}
	type parts struct {
		links, locals, ruled []returnpath.Backend
		redirects            []returnpath.Redirect
	}
	for _, row := range []struct {
		name                  string
		parts                 parts
		optional, reassembles bool
		chains                string
	}{
		{"ruled", parts{ruled: []returnpath.Backend{ruled}}, true, true, "reassemble"},
		{"links", parts{links: []returnpath.Backend{link}}, false, true, "reassemble prerouting"},
		{"locals", parts{locals: []returnpath.Backend{own}}, false, false, "prerouting output"},
		{"links and locals", parts{links: []returnpath.Backend{link}, locals: []returnpath.Backend{own}}, false, true,
			"reassemble prerouting output"},
		{"redirects", parts{redirects: []returnpath.Redirect{redirect}}, false, false, "prerouting"},
		{"links and redirects", parts{links: []returnpath.Backend{link}, redirects: []returnpath.Redirect{redirect}}, false, true,
			"reassemble prerouting"},
	} {
		f := &returnpath.Filter{Mark: 7700, Links: row.parts.links, Locals: row.parts.locals, Ruled: row.parts.ruled,
			Redirects: row.parts.redirects}
		var chains []string
		for _, line := range strings.Split(f.String(), "\n") {
			if name, ok := strings.CutPrefix(line, "\tchain "); ok {
				chains = append(chains, strings.TrimSuffix(name, " {"))
			}
		}
		if f.IsOptional() != row.optional || f.Reassembles() != row.reassembles || strings.Join(chains, " ") != row.chains {
			t.Errorf("%s: optional %v, reassembles %v, chains %q", row.name, f.IsOptional(), f.Reassembles(), chains)
		}
		p := returnpath.Plan{Filter: f}
		if p.Empty() || (p.Replies().Filter == nil) != row.optional {
			t.Errorf("%s: a plan of it is empty: %v; replies without it: %v", row.name, p.Empty(), p.Replies().Filter == nil)
		}
	}
}

// A plan with anything in it is not empty.
func TestEmpty(t *testing.T) {
	route, rule := returnpath.Route{Table: 1}, returnpath.Rule{Table: 1}
	for _, row := range []struct {
		p    returnpath.Plan
		want bool
	}{
		{returnpath.Plan{}, true},
		{returnpath.Plan{Routes: []returnpath.Route{route}}, false},
		{returnpath.Plan{Rules: []returnpath.Rule{rule}}, false},
		{returnpath.Plan{Routes: []returnpath.Route{route}, Rules: []returnpath.Rule{rule}}, false},
	} {
		if row.p.Empty() != row.want {
			t.Errorf("%v: %v", row.p.Commands(), row.p.Empty())
		}
	}
}

func TestFilterSuffix(t *testing.T) {
	for owner, want := range map[uint8]string{0: "", returnpath.DefaultOwner: "", 1: "_1", 101: "_101", 185: "_185"} {
		if got := returnpath.FilterSuffix(owner); got != want {
			t.Errorf("owner %d: %q", owner, got)
		}
	}
}

// ICMP errors are marked for backends in a set, and for those with rules of their own only
// where this host forwards: elsewhere a rule matches them.
func TestMarkedErrors(t *testing.T) {
	const mark = `icmp type { destination-unreachable, time-exceeded, parameter-problem } socket transparent 1`
	for _, row := range []struct {
		backend returnpath.Backend
		recipe  returnpath.Recipe
		want    bool
	}{
		{backend("10.9.0.2:25", container), returnpath.Marks, true},
		{backend("172.17.0.2:80", bridged), returnpath.Marks, true},
		{backend("172.17.0.2:80", bridged), returnpath.Rules, true},
		{backend("udp 10.9.0.2:53", container), returnpath.Rules, false},
	} {
		f := returnpath.New([]returnpath.Backend{row.backend}, nil, returnpath.Options{Recipe: row.recipe}).Filter
		if strings.Contains(f.String(), mark) != row.want {
			t.Errorf("%v by %v:\n%s", row.backend, row.recipe, f)
		}
	}
}

// Ports are left out of a redirect only if it has all of them.
func TestRedirectedPorts(t *testing.T) {
	for _, row := range []struct {
		ports returnpath.Ports
		want  string
	}{
		{returnpath.AllPorts, ""},
		{returnpath.Ports{Low: 1, High: 65535}, ""},
		{returnpath.Ports{Low: 2, High: 65535}, " th dport 2-65535"},
		{returnpath.Ports{Low: 1, High: 65534}, " th dport 1-65534"},
		{returnpath.Ports{Low: 0, High: 65534}, " th dport 0-65534"},
	} {
		redirect := returnpath.Redirect{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Ports: row.ports,
			To: netip.MustParseAddrPort("[::]:7000")}
		p := returnpath.New(nil, []returnpath.Redirect{redirect}, returnpath.Options{})
		want := "ip daddr 203.0.113.0/24 meta l4proto tcp" + row.want + " tproxy ip to :7000"
		if !strings.Contains(p.Filter.String(), want) {
			t.Errorf("%v: no %q in\n%s", row.ports, want, p.Filter)
		}
	}
}

// A prefix with all ports covers the servers in it, if everything else is the same.
func TestPrefixCovers(t *testing.T) {
	prefix := backend("10.1.0.0/16", container)
	ports := prefix
	ports.Ports = returnpath.Ports{Low: 25, High: 30}
	for _, row := range []struct {
		name          string
		prefix, other returnpath.Backend
		want          int
	}{
		{"within", prefix, backend("10.1.0.7:25", container), 1},
		{"a smaller prefix", prefix, backend("10.1.7.0/24", container), 1},
		{"outside", prefix, backend("10.2.0.7:25", container), 2},
		{"another protocol", prefix, backend("udp 10.1.0.7:25", container), 2},
		{"another device", prefix, backend("10.1.0.7:25", bridged), 2},
		{"another protocol and device", prefix, backend("udp 10.1.0.7:25", bridged), 2},
		{"some ports", ports, backend("10.1.0.7:80", container), 2},
		{"some ports, another protocol", ports, backend("udp 10.1.0.7:80", container), 2},
	} {
		p := returnpath.New([]returnpath.Backend{row.other, row.prefix}, nil, returnpath.Options{})
		if len(p.Backends) != row.want {
			t.Errorf("%s: %v, want %d", row.name, p.Backends, row.want)
		}
	}
}

// The limits of the number of rules are exact, and the note is about the first backend.
func TestRuleLimit(t *testing.T) {
	scattered := func(host string, n int, r returnpath.Reach) (all []returnpath.Backend) {
		for i := range n {
			all = append(all, backend(fmt.Sprintf("%s:%d", host, 1000+2*i), r))
		}
		return all
	}
	for _, row := range []struct {
		host  string
		n     int
		reach returnpath.Reach
		rules int
		about string
	}{
		{"10.9.0.2", 32, container, 32, ""},
		{"10.9.0.2", 33, container, 1, ""},
		{"127.0.0.9", 32, loopback, 32, ""},
		{"127.0.0.9", 33, loopback, 1, ""},
		{"127.0.0.1", 33, loopback, 33, "127.0.0.1:1000"},
	} {
		p := returnpath.New(scattered(row.host, row.n, row.reach), nil, returnpath.Options{})
		about := ""
		if len(p.Notes) > 0 {
			about = p.Notes[0].About
		}
		if got := len(p.Replies().Rules); got != row.rules || about != row.about {
			t.Errorf("%d on %s: %d rules, want %d, and a note about %q", row.n, row.host, got, row.rules, about)
		}
	}
}

// Rules are in the order of their preference. The first ones look packets up in table main.
func TestRulesInOrder(t *testing.T) {
	redirect := returnpath.Redirect{Ports: returnpath.AllPorts, To: netip.MustParseAddrPort("[::]:7000")}
	p := returnpath.New([]returnpath.Backend{backend("172.17.0.2:80", bridged)}, []returnpath.Redirect{redirect}, returnpath.Options{})
	var preferences []uint32
	tables := map[uint32]int{}
	for _, r := range p.Rules {
		preferences = append(preferences, r.Preference)
		tables[r.Table]++
	}
	if !slices.IsSorted(preferences) || len(preferences) != 5 {
		t.Errorf("preferences %v", preferences)
	}
	if tables[254] != 2 || tables[7700] != 3 {
		t.Errorf("rules by table: %v", tables)
	}
}

// A rule without an owner, as of another program, is printed without one.
func TestRuleOfAnOwner(t *testing.T) {
	for owner, want := range map[uint8]string{0: "ip rule add lookup 7 pref 8", 1: "ip rule add lookup 7 pref 8 protocol 1"} {
		if got := (returnpath.Rule{Table: 7, Preference: 8, Owner: owner}).String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
