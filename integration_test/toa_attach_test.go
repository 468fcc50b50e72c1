package integration_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
	"unproxy/transparent/toa"
)

// Which client which listener shows, over links of both families. The controls are what a
// socket cannot show, and the connection without programs in TestTOAPromise.
func TestTOAClients(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		r := newTOARig(t)
		r.attach(t, "--from", toaGateway4, "--from", toaGateway6, "--port", "7000", "--port", "7004", "--port", "7006", "--port", "7060")
		dual := r.listen(t, "tcp", ":7000", nil)
		v4 := r.listen(t, "tcp4", ":7004", nil)
		v6 := r.listen(t, "tcp6", "[::]:7006", nil)
		for _, tt := range []struct {
			server           *toaServer
			from, to, client string
		}{
			{dual, toaGateway4, toaServer4 + ":7000", toaClient4},
			{dual, toaGateway4, toaServer4 + ":7000", toaClient6},
			{dual, toaGateway6, "[" + toaServer6 + "]:7000", toaClient4},
			{dual, toaGateway6, "[" + toaServer6 + "]:7000", toaClient6},
			{v4, toaGateway4, toaServer4 + ":7004", toaClient4},
			{v6, toaGateway6, "[" + toaServer6 + "]:7006", toaClient4},
			{v6, toaGateway6, "[" + toaServer6 + "]:7006", toaClient6},
		} {
			c := toaCall{from: tt.from, to: tt.to, client: tt.client}
			conn, state := r.must(t, c)
			if !state.Promised {
				t.Errorf("%+v: not promised", c)
			}
			seen := tt.server.want(t, tt.client)
			if got := peerOf(t, seen.conn); got != tt.client {
				t.Errorf("%+v: getpeername(2) says %s", c, got)
			}
			echoed(t, conn, seen.line)
		}
		r.refuses(t, v4, toaCall{from: toaGateway4, to: toaServer4 + ":7004", client: toaClient6}, "dropped_family")
	})
}

// Clients that cannot be. The gate drops them; the server never accepts. Each row has its
// control: the good client that follows on the same listener.
func TestTOADeniedClients(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		r := newTOARig(t)
		r.attach(t)
		s := r.listen(t, "tcp", fmt.Sprintf(":%d", toaPort), nil)
		link4, link6 := call(""), toaCall{from: toaGateway6, to: fmt.Sprintf("[%s]:%d", toaServer6, toaPort)}
		for _, client := range []string{
			"0.0.0.0:1", "0.1.2.3:1", "127.0.0.1:1", "127.255.255.255:1", "224.0.0.1:1", "239.255.255.255:1",
			"255.255.255.255:1", "[::]:1", "[::1]:1", "[ff02::1]:1", "[fe80::1]:1", "[febf::1]:1",
		} {
			for _, link := range []toaCall{link4, link6} {
				link.client = client
				r.refuses(t, s, link, "dropped_denied")
			}
		}
		link4.client = toaServer4 + ":1"
		r.refuses(t, s, link4, "dropped_denied")
		link6.client = "[" + toaServer6 + "]:1"
		r.refuses(t, s, link6, "dropped_denied")
		for _, client := range []string{"1.0.0.0:1", "126.255.255.255:1", "128.0.0.1:1", "223.255.255.255:65535",
			"[::2]:1", "[fec0::1]:1", "[64:ff9b::cb00:7109]:1"} {
			link6.client = client
			r.must(t, link6)
			s.want(t, client)
		}
	})
}

// Where there is no promise the gateway sends nothing, and the server accepts at most a
// connection that was reset. Where there is one the address is seen.
func TestTOAPromise(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		lab.Require(t, "nft")
		r := newTOARig(t)
		listed := r.listen(t, "tcp", fmt.Sprintf(":%d", toaPort), nil)
		r.listen(t, "tcp", fmt.Sprintf(":%d", toaUnlisted), nil)
		refused := func(name string, c toaCall, want error) {
			t.Helper()
			if _, _, err := r.dial(t, c); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
		good := call(toaClient4)
		refused("no program of the gateway", good, unix.ENOPROTOOPT)
		unproxy(t, "toa", "attach", "--gateway", "--cgroup", r.gateway.Path)
		refused("no program of the server", good, errUnpromised)
		listed = r.restart(t, listed, r.attach(t))
		r.must(t, good)
		listed.want(t, toaClient4)

		other := good
		other.to = fmt.Sprintf("%s:%d", toaServer4, toaUnlisted)
		refused("unlisted port", other, errUnpromised)
		stranger := good
		stranger.from = toaStranger4
		refused("unlisted gateway", stranger, errUnpromised)

		for name, rule := range map[string]string{
			"offer stripped":   "input tcp flags & (syn|ack) == syn reset tcp option 254",
			"promise stripped": "output tcp flags & (syn|ack) == (syn|ack) reset tcp option 254",
		} {
			r.host.Output(t, "nft", "add table inet strip; "+
				"add chain inet strip input { type filter hook prerouting priority -300; }; "+
				"add chain inet strip output { type filter hook output priority 0; }; add rule inet strip "+rule)
			refused(name, good, errUnpromised)
			r.host.Output(t, "nft", "delete table inet strip")
		}
		r.must(t, good)
		listed.want(t, toaClient4)
	})
}

// What a stranger sends is not believed: he is seen himself. What a gateway sends without
// a client, or loses on the way, is refused.
func TestTOAGate(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		lab.Require(t, "nft")
		r := newTOARig(t)
		r.attach(t)
		s := r.listen(t, "tcp", fmt.Sprintf(":%d", toaPort), nil)
		for _, stranger := range []toaCall{
			{from: toaStranger4, to: fmt.Sprintf("%s:%d", toaServer4, toaPort)},
			{from: toaStranger6, to: fmt.Sprintf("[%s]:%d", toaServer6, toaPort)},
		} {
			for _, format := range []toa.Format{toa.Unasked, toa.Legacy} {
				stranger.client, stranger.format = toaClient4, format
				r.must(t, stranger)
				if got := s.next(t).peer.Addr().String(); got != stranger.from {
					t.Errorf("%+v: the server sees %s", stranger, got)
				}
			}
		}
		if got := r.counters(t); got["stranger"] != 2 || got["taken"] != 0 { // legacy options are not looked for
			t.Errorf("counters %v, want 2 strangers", got)
		}
		r.refuses(t, s, call(""), "dropped_missing")
		legacy := call(toaClient4)
		legacy.format = toa.Legacy
		r.refuses(t, s, legacy, "dropped_missing")

		// Stripped from everything but the handshake's first two segments.
		r.host.Output(t, "nft", "add table inet strip; "+
			"add chain inet strip input { type filter hook prerouting priority -300; }; "+
			"add set inet strip on { type inet_service; }; "+
			fmt.Sprintf("add rule inet strip input tcp flags & syn == 0 tcp dport %d reset tcp option 254", toaPort))
		accepted, dropped := s.accepted.Load(), r.counters(t)["dropped_missing"]
		_, state := r.must(t, call(toaClient4))
		if !state.Promised {
			t.Error("not promised")
		}
		r.waitCounter(t, "dropped_missing", dropped+3)
		if got := s.accepted.Load(); got != accepted {
			t.Error("a connection whose option was stripped was accepted")
		}
		r.host.Output(t, "nft", "delete table inet strip")
		s.want(t, toaClient4) // the same connection: its data is sent again, now with the option
	})
}

// Legacy options are taken from listed gateways with --legacy alone, and our own besides.
func TestTOALegacy(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		r := newTOARig(t)
		r.attach(t)
		output := r.attachServer(t, "--legacy", "--from", toaGateway4, "--from", toaGateway6, "--port", fmt.Sprint(toaPort))
		if !strings.Contains(output, "warning: --legacy") || !strings.Contains(output, "updated ") {
			t.Errorf("no warning, or not in place: %s", output)
		}
		s := r.listen(t, "tcp", fmt.Sprintf(":%d", toaPort), nil)
		for _, format := range []toa.Format{toa.Legacy, toa.Negotiated, toa.Unasked} {
			for _, client := range []string{toaClient4, toaClient6} {
				for _, c := range []toaCall{call(client),
					{from: toaGateway6, to: fmt.Sprintf("[%s]:%d", toaServer6, toaPort), client: client}} {
					c.format = format
					r.must(t, c)
					s.want(t, client)
				}
			}
		}
		denied := call("127.0.0.1:1")
		denied.format = toa.Legacy
		r.refuses(t, s, denied, "dropped_denied")
		r.refuses(t, s, call(""), "dropped_missing")
	})
}

// TCP Fast Open: data in a gateway's SYN is dropped, the connection is made without it; a
// stranger's is not touched.
func TestTOAFastOpen(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		r := newTOARig(t)
		r.attach(t)
		netns.Sysctl(t, "net.ipv4.tcp_fastopen", "5")                // send data without a cookie
		r.host.Sysctl(t, "net.ipv4.tcp_fastopen", fmt.Sprint(0x202)) // take it
		s := r.listen(t, "tcp4", fmt.Sprintf(":%d", toaPort), func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN, 100)
		})
		stranger := toaCall{from: toaStranger4, to: fmt.Sprintf("%s:%d", toaServer4, toaPort), fastOpen: true}
		r.must(t, stranger)
		if got := s.next(t).peer.Addr().String(); got != toaStranger4 {
			t.Errorf("the server sees %s, want the stranger", got)
		}
		passive := func() string {
			return strings.Join(strings.Fields(r.host.Shell(t, "nstat -asz TcpExtTCPFastOpenPassive | tail -1")), " ")
		}
		if got := passive(); !strings.HasPrefix(got, "TcpExtTCPFastOpenPassive 1 ") {
			t.Skipf("no TCP Fast Open here: %s", got)
		}
		gateway := call(toaClient4)
		gateway.fastOpen = true
		r.must(t, gateway)
		s.want(t, toaClient4)
		if got := r.counters(t)["dropped_data"]; got == 0 {
			t.Error("no SYN with data was dropped")
		}
		if got := passive(); !strings.HasPrefix(got, "TcpExtTCPFastOpenPassive 1 ") {
			t.Errorf("the gateway's data was taken from the SYN: %s", got)
		}
	})
}

// Data that the client sends late, and TCP_DEFER_ACCEPT with data at once.
func TestTOADeferAccept(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		r := newTOARig(t)
		r.attach(t)
		s := r.listen(t, "tcp", fmt.Sprintf(":%d", toaPort), func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 30)
		})
		for _, client := range []string{toaClient4, toaClient6} {
			conn, _ := r.must(t, call(client))
			echoed(t, conn, s.want(t, client).line)
		}
		_, state, err := r.dial(t, call(""))
		if err != nil || state.Promised {
			t.Errorf("%+v, %v", state, err)
		}
		r.waitCounter(t, "dropped_missing", 1)
	})
}
