package engine

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/integration_test/netns"
	"unproxy/transparent"
)

var everyPort = &kernel.EphemeralPorts{Range: kernel.PortRange{First: 1, Last: 1<<16 - 1}}

// newSelfRig is a rig on which the first n connects to serverA end at their own sockets.
func newSelfRig(t *testing.T, ports Ports, n int, f *forward.Forward) *rig {
	t.Helper()
	k := newScript(t, 0)
	k.onDial = func(s *file) {
		if s.to == serverA && n > 0 {
			n--
			s.source = s.to.Addr
		}
	}
	return newRig(t, k, Config{Forwards: []*forward.Forward{f}, Ephemeral: ports})
}

// A socket that is connected to itself is sent no payload, reset at once and replaced. If that
// keeps happening the next backend is used; without one the outcome is a refusal by the backend.
func TestSelfConnectIsReplaced(t *testing.T) {
	for _, tt := range []struct {
		name     string
		times    int
		backends []forward.Endpoint
		want     []forward.Endpoint // dialled
		refused  bool
	}{
		{"once", 1, []forward.Endpoint{serverA}, []forward.Endpoint{serverA, serverA}, false},
		{"three times", 3, []forward.Endpoint{serverA, serverB}, slices.Repeat([]forward.Endpoint{serverA}, 4), false},
		{"always", 99, []forward.Endpoint{serverA, serverB},
			append(slices.Repeat([]forward.Endpoint{serverA}, 4), serverB), false},
		{"always, alone", 99, []forward.Endpoint{serverA}, slices.Repeat([]forward.Endpoint{serverA}, 4), true},
	} {
		for _, payload := range []string{"", "EHLO there\r\n"} {
			t.Run(tt.name, func(t *testing.T) {
				r := newSelfRig(t, everyPort, tt.times, plainForward(tt.backends...))
				from := r.open(header + payload)
				if got := r.dialOrder(); !slices.Equal(got, tt.want) {
					t.Errorf("dialled %v, want %v", got, tt.want)
				}
				for i, d := range r.dials[:min(tt.times, len(tt.want))] {
					if d.to == serverA && (len(d.far.received) > 0 || !d.far.gotRST || d.far.isOpen) {
						t.Errorf("self-connected socket %d received %q, RST %v", i+1, d.far.received, d.far.gotRST)
					}
				}
				if tt.refused {
					c := r.expectEnd(1, record.BackendRefused, record.Dial, record.Backend)
					if c.BytesIn != 0 || !from.gotRST {
						t.Errorf("counted %d bytes, RST %v", c.BytesIn, from.gotRST)
					}
				} else {
					if got := string(r.backend().received); got != payload {
						t.Errorf("the backend received %q, want %q", got, payload)
					}
					finishBoth(r, from)
					r.expectEnd(1, record.OK, record.Relay, record.Client)
				}
				r.expectClean()
			})
		}
	}
}

// If the kernel cannot choose the backend's port, the engine does not query the socket's address,
// which the test would see. This is also the control of the test above.
func TestSelfConnectCostsNothingElsewhere(t *testing.T) {
	for name, ports := range map[string]Ports{
		"unknown":     nil,
		"other range": &kernel.EphemeralPorts{Range: kernel.PortRange{First: 32768, Last: 60999}},
		"reserved":    &kernel.EphemeralPorts{Range: everyPort.Range, Reserved: []kernel.PortRange{{First: 80, Last: 80}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSelfRig(t, ports, 1, plainForward(serverA))
			r.open(header + "payload")
			if len(r.dials) != 1 || string(r.backend().received) != "payload" {
				t.Errorf("dialled %v, %q arrived", r.dialOrder(), r.backend().received)
			}
		})
	}
}

// The plain connect of a diagnosis that ends at its own socket does not count as an answer of the
// backend.
func TestSelfConnectIsNoAnswer(t *testing.T) {
	for _, self := range []bool{false, true} {
		f := transparently(plainForward(serverA))
		k := newScript(t, 0)
		k.plans[serverA] = []plan{silent, silent, {}}
		k.onDial = func(s *file) {
			if self && !s.source.IsValid() {
				s.source = s.to.Addr
			}
		}
		r := newRig(t, k, Config{Forwards: []*forward.Forward{f}, Ephemeral: everyPort})
		r.open(header)
		r.advance(9 * time.Second)
		want := record.NoReturnPath
		if self {
			want = record.ConnectTimeout
		}
		r.expectEnd(1, want, record.Dial, record.Timeout)
		r.expectClean()
	}
}

// A client whose address and port are the backend's is denied, even if its address is allowed.
func TestSelfConnectBySourceIsDenied(t *testing.T) {
	f := transparently(plainForward(serverA))
	f.Source = transparent.Policy{Allow: anyAddress}
	r := newSelfRig(t, everyPort, 0, f)
	r.open(v2(serverA.Addr, dest4) + "payload")
	r.expectEnd(1, record.SourceDenied, record.Dial, record.Gateway)
	r.open(v2(netip.AddrPortFrom(serverA.Addr.Addr(), 81), dest4)) // the control
	if len(r.dials) != 1 || r.backend().source.Port() != 81 {
		t.Errorf("dialled %v", r.dials)
	}
}

// On the real kernel, with hundreds of connects to a closed port in a small ephemeral range, no
// client reads its own bytes, and the backend can start right after. Without the check some do.
//
//	127.0.0.1:45004, [::1]:45004: closed
func TestSelfConnectOnRealKernel(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45020")
		for _, backend := range []string{"127.0.0.1:45004", "[::1]:45004"} {
			to := forward.Endpoint{Addr: netip.MustParseAddrPort(backend)}
			for _, ports := range []Ports{nil, kernel.NewLivePorts()} {
				echoed := echoesOf(t, to, ports, 200)
				if ports == nil && echoed == 0 || ports != nil && echoed > 0 {
					t.Errorf("%s, checked %v: %d of 200 connections were self-connected", backend, ports != nil, echoed)
				}
				ln, err := net.Listen("tcp", backend)
				if err != nil {
					t.Fatalf("the backend cannot start: %v", err)
				}
				ln.Close()
			}
		}
	})
}

// A check of a backend that ends at its own socket finds no backend, and leaves nothing on the port
// that keeps the backend from it.
//
//	127.0.0.1:45004, [::1]:45004: closed
func TestCheckIsNotOfItself(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45004 45005")
		for _, backend := range []string{"127.0.0.1:45004", "[::1]:45004"} {
			to := forward.Endpoint{Addr: netip.MustParseAddrPort(backend)}
			for range 20 {
				if got := connectOwn(t.Context(), to, Origin{}); got != unix.ECONNREFUSED {
					t.Fatalf("a check of %s, where nothing listens: %v", backend, got)
				}
				ln, err := net.Listen("tcp", backend)
				if err != nil {
					t.Fatalf("the backend cannot start: %v", err)
				}
				ln.Close()
			}
		}
	})
}

// echoesOf connects through an engine and counts the connections that did not end as refused. The
// clients' address keeps their ports apart from those towards the backend.
func echoesOf(t *testing.T, to forward.Endpoint, ports Ports, n int) (echoed int) {
	t.Helper()
	f := loopback(to)
	f.Listeners[0].Endpoint = forward.Endpoint{Path: "@front"}
	records := make(chan record.Connection, n)
	e, err := New(Config{Forwards: []*forward.Forward{f}, Ephemeral: ports, Loops: 1,
		Report: func(c *record.Connection) { records <- *c }})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	defer e.Close()
	for range n {
		conn, err := net.Dial("unix", "@front")
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(testTimeout))
		conn.Write([]byte(header + "payload"))
		got := make([]byte, 1)
		if n, _ := conn.Read(got); n > 0 {
			echoed++
		}
		conn.Close()
		if c := <-records; ports != nil && (c.Outcome != record.BackendRefused || c.BytesIn != 0) {
			t.Fatalf("ended %v after %d bytes", c.Outcome, c.BytesIn)
		}
	}
	return echoed
}
