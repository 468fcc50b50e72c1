package engine

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// A listener is made transparent before bind(2), with the option of its family. Otherwise the
// kernel does not deliver to it what the packet filter assigns to it.
func TestTProxyListener(t *testing.T) {
	for _, tt := range []struct {
		at   string
		dual bool
		want [3]int
	}{
		{"127.0.0.1:7000", false, [3]int{unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1}},
		{"[::1]:7000", false, [3]int{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1}},
		{"[::]:7000", true, [3]int{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1}},
	} {
		for _, tproxy := range []bool{true, false} {
			f := plainForward(serverA)
			f.Listeners[0].Endpoint.Addr, f.Listeners[0].DualStack = netip.MustParseAddrPort(tt.at), tt.dual
			f.TProxy = tproxy
			k, set := newScript(t, 0), false
			k.bindError = func(netip.AddrPort) unix.Errno {
				set = slices.Contains(k.files[len(k.files)-1].options, tt.want)
				return 0
			}
			newRig(t, k, Config{Forwards: []*forward.Forward{f}})
			if set != tproxy {
				t.Errorf("%s, TProxy %v: option %v set before bind: %v", tt.at, tproxy, tt.want, set)
			}
		}
	}
}

func TestTProxyListenerWithoutCapability(t *testing.T) {
	f := plainForward(serverA)
	f.TProxy = true
	k := newScript(t, 0)
	k.optionError = func(level, name int) unix.Errno {
		if level == unix.IPPROTO_IP && name == unix.IP_TRANSPARENT {
			return unix.EPERM
		}
		return 0
	}
	if _, err := New(Config{Kernel: k, Forwards: []*forward.Forward{f}}); err == nil || k.used != 0 {
		t.Errorf("without the capability: %v, %d descriptors are open", err, k.used)
	}
}

// The destination of the header is used. Without one, a TProxy listener uses the address that the
// connection was sent to; any other listener has none.
func TestDestination(t *testing.T) {
	sent := netip.MustParseAddrPort("198.51.100.77:1234")
	sent6 := netip.MustParseAddrPort("[2001:db8:7::1]:1234")
	const unknown = "PROXY UNKNOWN\r\n"
	pass := func(f *forward.Forward) { f.Trust, f.PassUntrusted = prefixes{}, true }
	for _, tt := range []struct {
		name    string
		setting func(*forward.Forward)
		sent    netip.AddrPort
		sends   string
		want    netip.AddrPort // the destination; invalid: none
	}{
		{"the header's", nil, sent, v2(client4, serverB.Addr), serverB.Addr},
		{"LOCAL", nil, sent, local, sent},
		{"LOCAL, IPv6", nil, sent6, local, sent6},
		{"UNKNOWN", nil, sent, unknown, sent},
		{"no header", pass, sent, "payload", sent},
		{"no header, IPv6", pass, sent6, "payload", sent6},
		{"the last header's", func(f *forward.Forward) { f.Headers = 2 }, sent,
			v2(client4, dest4) + v2(client4, serverB.Addr), serverB.Addr},
		{"LOCAL after a header", func(f *forward.Forward) { f.Headers = 2 }, sent, v2(client4, dest4) + local, sent},
		{"not tproxy, LOCAL", func(f *forward.Forward) { f.TProxy = false }, sent, local, netip.AddrPort{}},
		{"not tproxy, UNKNOWN", func(f *forward.Forward) { f.TProxy = false }, sent, unknown, netip.AddrPort{}},
		{"not tproxy, no header", func(f *forward.Forward) { pass(f); f.TProxy = false }, sent, "payload",
			netip.AddrPort{}},
	} {
		for _, fixed := range []bool{false, true} { // a fixed backend uses the destination only in the record
			f := plainForward(serverA)
			f.TProxy, f.AllowDestination = true, anyAddress
			if tt.setting != nil {
				tt.setting(f)
			}
			if !fixed {
				f.Listeners[0].Backends = []forward.Backend{{FromHeader: true}}
			}
			r := newForwardRig(t, f)
			from := r.arrive(r.listenerSocket(0), lb)
			from.source = tt.sent
			from.deliver([]byte(tt.sends))
			r.settle()
			if !fixed && !tt.want.IsValid() {
				c := r.expectEnd(1, record.NoAddress, record.Dial, record.Gateway)
				if c.Reason != "no destination address" || c.Destination.IsValid() {
					t.Errorf("%s: destination %v, %s", tt.name, c.Destination, c.Reason)
				}
				continue
			}
			want := forward.Endpoint{Addr: tt.want}
			if fixed {
				want = serverA
			}
			if got := r.dialOrder(); !slices.Equal(got, []forward.Endpoint{want}) {
				t.Errorf("%s: dialled %v, want %v", tt.name, got, want)
				continue
			}
			finishBoth(r, from)
			if c := r.expectEnd(1, record.OK, record.Relay, record.Client); c.Destination != tt.want {
				t.Errorf("%s: destination %v in the record, want %v", tt.name, c.Destination, tt.want)
			}
			r.expectClean()
		}
	}
}

// A destination must be allowed, an address to connect to, and not the listener itself, whatever it
// was taken from.
func TestDeniedDestinations(t *testing.T) {
	const loop, nowhere, denied = "destination is this listener", "destination address or port is zero",
		"destination not allowed"
	own := prefixes{netip.MustParsePrefix("192.0.2.80/32"), netip.MustParsePrefix("2001:db8::80/128")}
	for _, tt := range []struct {
		at   string
		dual bool
		to   string
		want string // "": it is dialled
	}{
		{"[::]:7000", true, "192.0.2.80:7000", loop},
		{"[::]:7000", true, "127.0.0.1:7000", loop},
		{"[::]:7000", true, "127.9.9.9:7000", loop},
		{"[::]:7000", true, "[2001:db8::80]:7000", loop},
		{"[::]:7000", true, "[::1]:7000", loop},
		{"[::]:7000", true, "192.0.2.80:7001", ""},
		{"[::]:7000", true, "192.0.2.81:7000", ""},
		{"[::]:7000", true, "[2001:db8::81]:7000", ""},
		{"[::]:7000", false, "[2001:db8::80]:7000", loop},
		{"[::]:7000", false, "192.0.2.80:7000", ""},
		{"0.0.0.0:7000", false, "192.0.2.80:7000", loop},
		{"0.0.0.0:7000", false, "[2001:db8::80]:7000", ""},
		{"127.0.0.1:7000", false, "127.0.0.1:7000", loop},
		{"127.0.0.1:7000", false, "127.0.0.2:7000", ""},
		{"127.0.0.1:7000", false, "192.0.2.80:7000", ""},
		{"192.0.2.80:7000", false, "192.0.2.80:7000", loop},
		{"192.0.2.80:7000", false, "127.0.0.1:7000", ""},
		{"203.0.113.5:7000", false, "203.0.113.5:7000", loop}, // a transparent listener can be bound to it
		{"127.0.0.1:7000", false, "0.0.0.0:7000", nowhere},
		{"127.0.0.1:7000", false, "0.0.0.0:25", nowhere},
		{"[::1]:7000", false, "[::]:25", nowhere},
		{"127.0.0.1:7000", false, "198.51.100.1:0", nowhere},
		{"127.0.0.1:7000", false, "100.64.0.1:25", denied},
	} {
		to := netip.MustParseAddrPort(tt.to)
		client := client4
		if to.Addr().Is6() {
			client = client6
		}
		for _, how := range []string{"header", "LOCAL", "no header"} {
			f := plainForward()
			f.Listeners[0] = forward.Listener{Name: "front",
				Endpoint: forward.Endpoint{Addr: netip.MustParseAddrPort(tt.at)}, DualStack: tt.dual,
				Backends: []forward.Backend{{FromHeader: true}}}
			f.TProxy, f.AllowDestination, f.Source.Own = true, anyAddress, own
			if tt.want == denied {
				f.AllowDestination = own
			}
			sends := map[string]string{"header": v2(client, to), "LOCAL": local, "no header": "payload"}[how]
			if how == "no header" {
				f.Trust, f.PassUntrusted = prefixes{}, true
			}
			r := newForwardRig(t, f)
			from := r.arrive(r.listenerSocket(0), netip.AddrPortFrom(client.Addr(), 40000))
			if how != "no header" {
				from.peer = lb
			}
			from.source = to
			from.deliver([]byte(sends))
			r.settle()
			if tt.want == "" {
				if got := r.dialOrder(); !slices.Equal(got, []forward.Endpoint{{Addr: to}}) {
					t.Errorf("%s at %s to %s: dialled %v", how, tt.at, tt.to, got)
				}
				continue
			}
			c := r.expectEnd(1, record.DestinationDenied, record.Dial, record.Gateway)
			if c.Reason != tt.want || c.Destination != to || len(r.dials) != 0 || !from.gotRST {
				t.Errorf("%s at %s to %s: %q, destination %v, %d dials; want %q", how, tt.at, tt.to,
					c.Reason, c.Destination, len(r.dials), tt.want)
			}
			r.expectClean()
		}
	}
}
