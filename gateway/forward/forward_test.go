package forward_test

import (
	"net/netip"
	"slices"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/transparent"
)

// set is a set of addresses that does not know how specific its rules are.
type set []netip.Prefix

func (s set) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(s, func(p netip.Prefix) bool { return p.Contains(a) })
}

// prefixes knows it.
type prefixes struct{ set }

func (p prefixes) Bits(a netip.Addr) int {
	most := -1
	for _, one := range p.set {
		if one.Contains(a) {
			most = max(most, one.Bits())
		}
	}
	return most
}

// A peer is direct if its rule is more specific than the rule that trusts it. In doubt it
// needs a header.
func TestIsDirect(t *testing.T) {
	of := func(all ...string) set {
		var s set
		for _, one := range all {
			s = append(s, netip.MustParsePrefix(one))
		}
		return s
	}
	for _, row := range []struct {
		name          string
		direct, trust forward.Addresses
		want          bool
	}{
		{"neither", nil, nil, false},
		{"no direct rule", nil, prefixes{of("10.0.0.0/8")}, false},
		{"another direct peer", prefixes{of("192.0.2.0/24")}, nil, false},
		{"direct alone", prefixes{of("10.1.0.0/16")}, nil, true},
		{"trusted by another rule", prefixes{of("10.1.0.0/16")}, prefixes{of("192.0.2.0/24")}, true},
		{"direct more specific", prefixes{of("10.1.0.0/16")}, prefixes{of("10.0.0.0/8")}, true},
		{"trust more specific", prefixes{of("10.0.0.0/8")}, prefixes{of("10.1.0.0/16")}, false},
		{"equal", prefixes{of("10.1.0.0/16")}, prefixes{of("10.1.0.0/16")}, false},
		{"the longest counts", prefixes{of("10.0.0.0/8", "10.1.2.3/32")}, prefixes{of("10.1.0.0/16")}, true},
		{"direct of unknown length", of("10.1.2.3/32"), prefixes{of("10.0.0.0/8")}, false},
		{"trust of unknown length", prefixes{of("10.1.2.3/32")}, of("10.0.0.0/8"), false},
	} {
		f := forward.Forward{Direct: row.direct, Trust: row.trust}
		if got := f.IsDirect(netip.MustParseAddr("10.1.2.3")); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
}

// What a forward says of its listeners and backends.
func TestForwardOfListeners(t *testing.T) {
	internet := forward.Listener{Name: ":2222", Endpoint: forward.Endpoint{Addr: netip.MustParseAddrPort("[::]:2222")}, DualStack: true,
		Backends: []forward.Backend{{Endpoint: forward.Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:22")}}, {Host: "db", Port: 25}}}
	unix := forward.Listener{Name: "unix:/s", Endpoint: forward.Endpoint{Path: "/s"}, Backends: []forward.Backend{{FromHeader: true}}}
	systemd := forward.Listener{Name: "systemd:web", Activation: "web"}
	for _, row := range []struct {
		f                               forward.Forward
		label                           string
		hasUnix, hasInternet, hasHeader bool
	}{
		{forward.Forward{}, "", false, false, false},
		{forward.Forward{Name: "ssh"}, "ssh", false, false, false},
		{forward.Forward{Name: "ssh", Listeners: []forward.Listener{internet}}, "ssh", false, true, false},
		{forward.Forward{Listeners: []forward.Listener{internet, unix}}, ":2222", true, true, true},
		{forward.Forward{Listeners: []forward.Listener{unix}}, "unix:/s", true, false, true},
		{forward.Forward{Listeners: []forward.Listener{systemd}}, "systemd:web", false, true, false},
	} {
		f := row.f
		if f.Label() != row.label || f.HasUnixListener() != row.hasUnix || f.HasInternetListener() != row.hasInternet ||
			f.HasHeaderBackend() != row.hasHeader {
			t.Errorf("%+v: label %q, unix %v, internet %v, header %v", f.Listeners, f.Label(), f.HasUnixListener(),
				f.HasInternetListener(), f.HasHeaderBackend())
		}
	}
	for _, row := range []struct {
		l                      forward.Listener
		socket, shared, behind string
	}{
		{internet, "dual-stack [::]:2222", "udp://dual-stack [::]:2222#1", "127.0.0.1:22, else db:25"},
		{unix, "unix:/s", "udp://unix:/s#1", "the destination in the header"},
		{systemd, "systemd:web", "udp://systemd:web#1", ""},
	} {
		l := row.l
		if l.SocketName() != row.socket || l.SharedName(1) != row.shared || l.BackendText() != row.behind {
			t.Errorf("%s: %q, %q, %q", l.Name, l.SocketName(), l.SharedName(1), l.BackendText())
		}
	}
	at := netip.MustParseAddrPort("[::]:2222")
	for _, row := range []struct {
		l    forward.Listener
		want bool
	}{{internet, true}, {systemd, true}, {unix, false}} {
		if own := row.l.Own(at, true); own.DualStack != row.want || own.Addr != at || !own.Datagrams {
			t.Errorf("%s: %+v", row.l.Name, own)
		}
	}
}

// Which sources a forward uses.
func TestSourceOfAForward(t *testing.T) {
	for _, row := range []struct {
		transparent, toa  bool
		port              transparent.SourcePort
		asClient, itsPort bool
	}{
		{false, false, transparent.Any, false, false},
		{false, true, transparent.Any, false, false},
		{true, true, 0, false, false},
		{true, false, transparent.Any, true, false},
		{true, false, 0, true, true},
	} {
		f := forward.Forward{Transparent: row.transparent}
		f.TOA.On, f.Source.SourcePort = row.toa, row.port
		if f.ConnectsAsClient() != row.asClient || f.UsesClientPort() != row.itsPort {
			t.Errorf("%+v: as client %v, from its port %v", row, f.ConnectsAsClient(), f.UsesClientPort())
		}
	}
}

func TestAllPorts(t *testing.T) {
	for _, row := range []struct {
		r    forward.Redirect
		want bool
	}{
		{forward.Redirect{}, false},
		{forward.Redirect{Low: 1, High: 65535}, true},
		{forward.Redirect{Low: 0, High: 65535}, true},
		{forward.Redirect{Low: 2, High: 65535}, false},
		{forward.Redirect{Low: 1, High: 65534}, false},
	} {
		if row.r.AllPorts() != row.want {
			t.Errorf("%+v: %v", row.r, !row.want)
		}
	}
	for _, row := range []struct {
		h    forward.DatagramHeader
		want string
	}{{forward.EveryDatagram, "every"}, {forward.FirstDatagram, "first"}, {forward.SimpleProxy, "spp"}} {
		if row.h.String() != row.want {
			t.Errorf("%d: %q", row.h, row.h)
		}
	}
}
