package integration_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// Clients of syslog, NTP and SIP often send from the port that they send to, which
// is the gateway's own as well. They keep it, although a listener on all addresses
// has the port, of the same forward or another, of the admin endpoint, with one
// loop or several.
//
//	lb ──header──▶ gateway :514 ──▶ 127.0.0.1:1514, [::1]:1514
func TestTransparentKeepsListenersPort(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		clients := []netip.AddrPort{netip.AddrPortFrom(client4.Addr(), 514), netip.AddrPortFrom(client6.Addr(), 514)}
		var tcp []*lab.Backend
		for _, at := range []string{"127.0.0.1:1514", "[::1]:1514"} {
			tcp = append(tcp, lab.Listen(t, at))
		}
		udp := []*lab.Datagrams{lab.ListenUDP(t, "127.0.0.1:1514"), lab.ListenUDP(t, "[::1]:1514")}
		returnPath(t, "127.0.0.1:1514", "[::1]:1514", "udp://127.0.0.1:1514", "udp://[::1]:1514")
		const to = "=127.0.0.1:1514,[::1]:1514"
		for _, listeners := range [][]string{
			{"--forward", ":514" + to, "--forward", "udp://:514" + to},
			{"--forward", "0.0.0.0:514" + to, "--forward", "udp://0.0.0.0:514" + to},
			{"--forward", "127.0.0.1:514" + to, "--forward", "udp://127.0.0.1:514" + to},
			{"--forward", ":1000" + to, "--admin", "0.0.0.0:514", "--admin-insecure", "--forward", "udp://:1000" + to, "--forward", "udp://:514=127.0.0.1:9"},
		} {
			for _, loops := range []string{"1", "2"} {
				t.Run(fmt.Sprint(listeners, " with loops ", loops), func(t *testing.T) {
					g := lab.StartGateway(t, append(listeners, "--trust", "127.0.0.1", "--transparent", "--source-port", "keep",
						"--loops", loops, "--drain-timeout", "100ms")...)
					_, port, err := net.SplitHostPort(g.Address(t, 0))
					if err != nil {
						t.Fatal(err)
					}
					at := "127.0.0.1:" + port
					for i, client := range clients {
						conn := lab.Send(t, at, headerOf(client), []byte("payload"))
						c := tcp[i].Next(t)
						wantRead(t, c, "payload")
						if got := lab.Peer(c); got != client {
							t.Errorf("TCP: the backend saw %v, want %v", got, client)
						}
						c.Write([]byte("reply"))
						wantRead(t, conn, "reply")
						conn.Close()
						c.Close()

						peer := lab.ListenUDP(t, "127.0.0.1:0")
						peer.Send(t, at, lab.V2Datagram(client, map[bool]netip.AddrPort{true: dest4, false: dest6}[client.Addr().Is4()], "hello"))
						if from := udp[i].Expect(t, "hello"); from != client {
							t.Errorf("UDP: the backend saw %v, want %v", from, client)
						}
						udp[i].Reply(t, client, "and back")
						peer.Expect(t, "and back")
					}
				})
			}
		}
	})
}

// The control: a socket of another program on all addresses has the port of every
// client, and the gateway says so and takes nothing from it.
func TestTransparentPortOfAnotherProgram(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		client := netip.AddrPortFrom(client4.Addr(), 514)
		other, err := net.Listen("tcp4", "0.0.0.0:514")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		b := lab.Listen(t, "127.0.0.1:1514")
		g := transparentGateway(t, "127.0.0.1:1514", "--source-port", "keep")
		wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(client)))
		g.NextConnection(t).Expect(t, "outcome", "source_port_busy", "phase", "dial")
		g = lab.StartGateway(t, withoutSelfTest(transparentFlags("127.0.0.1:1514"))...)
		lab.Send(t, g.Address(t, 0), headerOf(client))
		if got := lab.Peer(b.Next(t)); got.Addr() != client.Addr() || got == client {
			t.Errorf("prefer: the backend saw %v, want another port of %v", got, client.Addr())
		}
	})
}

// A listener whose port clients may use is still refused to a second gateway.
func TestTransparentListenerIsNotShared(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, forward := range []string{":514=127.0.0.1:1514", "udp://:514=127.0.0.1:1514"} {
			flags := []string{"--forward", forward, "--trust", "127.0.0.1", "--transparent", "--loops", "1"}
			lab.StartGateway(t, append(flags, "--drain-timeout", "100ms")...)
			if output, code := lab.RunGateway(t, append([]string{"serve"}, flags...)...); code != 1 {
				t.Errorf("a second gateway on %s ended with %d:\n%s", forward, code, output)
			}
		}
	})
}
