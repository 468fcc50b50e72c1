package engine

import (
	"net/netip"
	"slices"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
)

// ownServices are a listener at 127.0.0.1:7000 that leads where the header says, another forward,
// the admin endpoint, and a UDP listener.
func ownServices(allow prefixes, backends ...forward.Backend) *forward.Forward {
	f := plainForward()
	f.Listeners[0] = forward.Listener{Name: "front", Endpoint: forward.Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:7000")},
		Backends: backends}
	f.AllowDestination = allow
	f.Source.Own = prefixes{netip.MustParsePrefix("192.0.2.80/32"), netip.MustParsePrefix("2001:db8::80/128")}
	f.OwnListeners = &forward.OwnListeners{}
	f.OwnListeners.Add(
		forward.OwnListener{Addr: netip.MustParseAddrPort("[::]:7001"), DualStack: true},
		forward.OwnListener{Addr: netip.MustParseAddrPort("127.0.0.1:9180")},
		forward.OwnListener{Addr: netip.MustParseAddrPort("0.0.0.0:7002"), Datagrams: true},
	)
	return f
}

// A header does not lead to another listener of the process, by any address.
func TestHeaderLeadsToNoListenerOfTheProcess(t *testing.T) {
	const another, this, zero = "destination is another listener of this gateway", "destination is this listener",
		"destination address or port is zero"
	v4 := prefixes{netip.MustParsePrefix("0.0.0.0/0")}
	v6 := prefixes{netip.MustParsePrefix("::/0")}
	for _, tt := range []struct {
		allow prefixes
		to    string
		want  string // "" if it is dialled
	}{
		{anyAddress, "127.0.0.1:7001", another},
		{anyAddress, "127.7.7.7:7001", another},
		{anyAddress, "192.0.2.80:7001", another},
		{anyAddress, "[::1]:7001", another},
		{anyAddress, "[2001:db8::80]:7001", another},
		{anyAddress, "0.0.0.0:7001", zero},
		{anyAddress, "[::]:7001", zero},
		{anyAddress, "127.0.0.1:9180", another},
		{anyAddress, "127.0.0.1:7000", this},
		{anyAddress, "127.0.0.2:9180", ""}, // another program may listen there
		{anyAddress, "192.0.2.80:9180", ""},
		{anyAddress, "192.0.2.81:7001", ""},
		{anyAddress, "127.0.0.1:7002", ""}, // a UDP listener
		{anyAddress, "127.0.0.1:25", ""},
		{v4, "127.0.0.1:9180", another},

		{anyAddress, "[64:ff9b::127.0.0.1]:9180", "NAT64 form of a denied IPv4 address"},
		{anyAddress, "[64:ff9b::192.0.2.80]:7001", "NAT64 form of a denied IPv4 address"},
		{anyAddress, "[64:ff9b::127.0.0.1]:7000", "NAT64 form of a denied IPv4 address"},
		{anyAddress, "[64:ff9b::127.0.0.1]:25", ""}, // allowed like 127.0.0.1
		{v6, "[64:ff9b::127.0.0.1]:25", "NAT64 form of a denied IPv4 address"},
		{v6, "[64:ff9b::192.0.2.80]:25", "NAT64 form of a denied IPv4 address"},
		{v6, "[64:ff9b::0.0.0.0]:25", "NAT64 form of a denied IPv4 address"},
		{v6, "[64:ff9b:1:7f00:0:100::]:25", "NAT64 form of a denied IPv4 address"},
		{v6, "[2002:7f00:1::1]:25", "6to4 form of a denied IPv4 address"},
		{v6, "[::127.0.0.1]:25", "IPv4-compatible form of a denied IPv4 address"},
		{v6, "[2001:0:cb00:7101:0:f227:80ff:fffe]:25", "Teredo form of a denied IPv4 address"},
		{v6, "[2001:db8::5efe:127.0.0.1]:25", "ISATAP form of a denied IPv4 address"},
		{v6, "[64:ff9b::203.0.113.80]:25", ""},
		{v6, "[::1]:25", ""}, // no form of 0.0.0.1
	} {
		f := ownServices(tt.allow, forward.Backend{FromHeader: true})
		to, client := netip.MustParseAddrPort(tt.to), client4
		if to.Addr().Is6() {
			client = client6
		}
		r := newForwardRig(t, f)
		from := r.open(v2(client, to) + "payload")
		if tt.want == "" {
			if got := r.dialOrder(); !slices.Equal(got, []forward.Endpoint{{Addr: to}}) {
				t.Errorf("to %s: dialled %v", tt.to, got)
			}
			continue
		}
		c := r.expectEnd(1, record.DestinationDenied, record.Dial, record.Gateway)
		if c.Reason != tt.want || len(r.dials) != 0 || !from.gotRST {
			t.Errorf("to %s: %q, %d dials; want %q", tt.to, c.Reason, len(r.dials), tt.want)
		}
		r.expectClean()
	}
}

// Forwards may be chained: a configured backend may be a listener of the process.
func TestFixedBackendMayBeAnotherListener(t *testing.T) {
	to := forward.Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:7001")}
	r := newForwardRig(t, ownServices(nil, forward.Backend{Endpoint: to}))
	r.open(header)
	if got := r.dialOrder(); !slices.Equal(got, []forward.Endpoint{to}) {
		t.Errorf("dialled %v", got)
	}
}

// UDP destinations are compared with UDP listeners only.
func TestDatagramLeadsToNoListenerOfTheProcess(t *testing.T) {
	f := ownServices(anyAddress, forward.Backend{FromHeader: true})
	f.Datagrams = true
	route := &Route{Forward: f, Listener: &f.Listeners[0]}
	route.Bound = f.Listeners[0].Endpoint
	for to, denied := range map[string]bool{
		"127.0.0.1:7002": true, "192.0.2.80:7002": true, "224.0.0.1:7002": true, "127.0.0.1:7000": true,
		"127.0.0.1:7001": false, "127.0.0.1:9180": false, "203.0.113.80:7002": false,
	} {
		c := Caller{Client: client4, Destination: netip.MustParseAddrPort(to)}
		if got := len(route.Targets(nil, c)) == 0; got != denied {
			t.Errorf("to %s: denied %v", to, got)
		}
		if outcome, _, _ := route.NoTarget(c); denied && outcome != record.DestinationDenied {
			t.Errorf("to %s: %v", to, outcome)
		}
	}
}

func TestOwnListenersCostNoAllocation(t *testing.T) {
	f := ownServices(anyAddress, forward.Backend{FromHeader: true})
	route := &Route{Forward: f, Listener: &f.Listeners[0]}
	list := make([]forward.Endpoint, 0, 4)
	for _, to := range []string{"127.0.0.1:7001", "203.0.113.80:25", "[64:ff9b:1::203.0.113.9]:25"} {
		c := Caller{Destination: netip.MustParseAddrPort(to)}
		if n := allocations.PerRun(100, func() { route.Targets(list, c) }); n != 0 {
			t.Errorf("%s: Targets allocates %v times", to, n)
		}
	}
}
