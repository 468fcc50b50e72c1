package datagram

import (
	"net"
	"net/netip"
	"testing"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/integration_test/netns"
)

var everyPort = &kernel.EphemeralPorts{Range: kernel.PortRange{First: 1, Last: 1<<16 - 1}}

// newSelfRig makes a rig whose first n connects to server end at the connecting socket itself.
func newSelfRig(t *testing.T, ports engine.Ports, n int, f *forward.Forward) *rig {
	t.Helper()
	k := newScript(t)
	r := newRig(t, 1, Config{Kernel: k, Ephemeral: ports}, f)
	k.onConnect = func(s *socket, to netip.AddrPort) {
		if to == server && n > 0 {
			n--
			s.bound = to
		}
	}
	return r
}

// A socket that is connected to itself is sent no datagram and is replaced. If that keeps happening
// the next backend is used; without one the datagram is dropped as refused.
func TestSelfConnectIsReplaced(t *testing.T) {
	for _, tt := range []struct {
		times    int
		backends []netip.AddrPort
		want     netip.AddrPort // invalid: none
	}{
		{1, []netip.AddrPort{server}, server},
		{3, []netip.AddrPort{server, serverB}, server},
		{99, []netip.AddrPort{server, serverB}, serverB},
		{99, []netip.AddrPort{server}, netip.AddrPort{}},
	} {
		r := newSelfRig(t, everyPort, tt.times, plain(tt.backends...))
		r.from(lb, a+"hello")
		for _, s := range r.sockets[1:] {
			if s.bound == s.to && (s.isOpen || len(s.sent) > 0) {
				t.Errorf("%d times: a self-connected socket is open or was sent %v", tt.times, s.sent)
			}
		}
		if !tt.want.IsValid() {
			r.dropped(map[Drop]uint64{BackendRefused: 1})
			r.clean()
			continue
		}
		if s := r.back(); s.to != tt.want {
			t.Errorf("%d times: connected to %v, want %v", tt.times, s.to, tt.want)
		}
		r.back().took(t, "hello")
		r.dropped(nil)
	}
}

// If the kernel cannot choose the backend's port, the relay does not query the socket's address.
// This is also the control of the test above.
func TestSelfConnectCostsNothingElsewhere(t *testing.T) {
	for name, ports := range map[string]engine.Ports{
		"unknown":     nil,
		"other range": &kernel.EphemeralPorts{Range: kernel.PortRange{First: 32768, Last: 60999}},
	} {
		r := newSelfRig(t, ports, 1, plain(server))
		asked := r.calls["getsockname"]
		r.from(lb, a+"hello")
		if s := r.back(); s.bound != server || r.calls["getsockname"] != asked {
			t.Errorf("%s: connected from %v, %d calls", name, s.bound, r.calls["getsockname"]-asked)
		}
	}
}

// On the real kernel, with hundreds of flows to a closed port in a small ephemeral range, no
// datagram returns to its sender. Without the check some do.
//
//	127.0.0.1:45004, [::1]:45004: closed
func TestSelfConnectOnRealKernel(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45020")
		for _, backend := range []string{"127.0.0.1:45004", "[::1]:45004"} {
			to := netip.MustParseAddrPort(backend)
			for _, ports := range []engine.Ports{nil, kernel.NewLivePorts()} {
				echoed := echoesOf(t, to, ports, 300)
				if ports == nil && echoed == 0 || ports != nil && echoed > 0 {
					t.Errorf("%s, checked %v: %d of 300 flows were self-connected", backend, ports != nil, echoed)
				}
				conn, err := net.ListenPacket("udp", backend)
				if err != nil {
					t.Fatalf("the backend cannot start: %v", err)
				}
				conn.Close()
			}
		}
	})
}

// echoesOf makes flows one after the other and counts those whose datagram was echoed. Only one
// flow may be open, so each ends the previous one.
func echoesOf(t *testing.T, to netip.AddrPort, ports engine.Ports, n int) (echoed int) {
	t.Helper()
	f := plain(to)
	f.Listeners[0].Endpoint = forward.Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:2000")}
	f.Trust, f.MaxFlows = only(netip.MustParseAddrPort("127.0.0.1:1")), 1
	records := make(chan record.Connection, n)
	relay := New(Config{Ephemeral: ports, Report: func(c *record.Connection) { records <- *c }})
	e, err := engine.New(engine.Config{Forwards: []*forward.Forward{f}, Loops: 1, Guest: relay.Guest})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	defer e.Close()
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1000},
		net.UDPAddrFromAddrPort(f.Listeners[0].Endpoint.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range n {
		client := netip.AddrPortFrom(clientA.Addr(), uint16(1000+i))
		if _, err := conn.Write([]byte(v2(client, dest4) + "hello")); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			continue
		}
		c := <-records
		if c.DatagramsOut > 0 {
			echoed++
		}
	}
	return echoed
}
