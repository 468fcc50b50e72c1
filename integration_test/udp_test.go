package integration_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

var other4 = netip.MustParseAddrPort("192.0.2.10:4712")

// udpGateway starts a UDP gateway from 127.0.0.1:2000 to 127.0.0.1:3000. Its drain is
// short unless the flags set another.
func udpGateway(t *testing.T, flags ...string) *lab.Gateway {
	t.Helper()
	g := lab.StartGateway(t, append([]string{"--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1",
		"--drain-timeout", "100ms"}, flags...)...)
	lab.WaitReceiving(t, "127.0.0.1:2000")
	return g
}

const gatewayUDP = "127.0.0.1:2000"

// idle is the idle timeout of flows whose end a test waits for. It must not pass between
// two datagrams of a test on a busy machine.
const idle = "4s"

// Clients, destinations and health checks share the balancer's sockets in all
// combinations. Each gets the replies to its own datagrams:
//
//	lb 127.0.0.1:a ──A, B, A to elsewhere, LOCAL──▶ gateway ──▶ backend :3000
//	lb 127.0.0.1:b ──A, LOCAL──▶
func TestUDPFlowsApart(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := udpGateway(t, "--udp-idle-timeout", idle)
		one, two := lab.ListenUDP(t, "127.0.0.1:0"), lab.ListenUDP(t, "127.0.0.1:0")
		elsewhere := netip.MustParseAddrPort("198.51.100.2:443")
		sent := []struct {
			from *lab.Datagrams
			data []byte
		}{
			{one, lab.V2Datagram(client4, dest4, "0")},
			{one, lab.V2Datagram(other4, dest4, "1")},
			{two, lab.V2Datagram(client4, dest4, "2")},
			{one, lab.V2Datagram(client4, elsewhere, "3")},
			{one, lab.LocalDatagram("4")},
			{two, lab.LocalDatagram("5")},
		}
		flows := map[netip.AddrPort]bool{}
		var sources []netip.AddrPort
		for i, s := range sent {
			s.from.Send(t, gatewayUDP, s.data)
			from := backend.Expect(t, fmt.Sprint(i))
			flows[from] = true
			sources = append(sources, from)
		}
		if len(flows) != len(sent) {
			t.Fatalf("the backend saw %d flows, want %d", len(flows), len(sent))
		}
		for i := len(sent) - 1; i >= 0; i-- { // the last one is answered first
			backend.Reply(t, sources[i], fmt.Sprint("reply ", i))
			from := sent[i].from.Expect(t, fmt.Sprint("reply ", i))
			if from.String() != gatewayUDP {
				t.Errorf("the reply came from %v", from)
			}
		}
		for range sent {
			g.NextConnection(t).Expect(t, "protocol", "udp", "outcome", "ok", "by", "timeout", "phase", "relay",
				"datagrams_in", "1", "datagrams_out", "1", "bytes_in", "1", "bytes_out", "7", "forward", "udp://127.0.0.1:2000")
		}
	})
}

// With --udp-header first only the first datagram of a stream has a header, as
// Cloudflare documents for Spectrum. Later datagrams and replies have none.
//
//	spectrum 127.0.0.1:a ──header+payload, payload, …──▶ gateway --udp-header first ──▶ backend :3000
func TestUDPHeaderOnFirstDatagramOnly(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := udpGateway(t, "--udp-header", "first", "--log-level", "info")
		streams := []*lab.Datagrams{lab.ListenUDP(t, "127.0.0.1:0"), lab.ListenUDP(t, "127.0.0.1:0")}
		clients := []netip.AddrPort{client4, other4}
		for round := range 3 {
			for i, s := range streams {
				text := fmt.Sprint("stream ", i, " datagram ", round)
				if round == 0 {
					s.Send(t, gatewayUDP, lab.V2Datagram(clients[i], dest4, text))
				} else {
					s.Send(t, gatewayUDP, []byte(text))
				}
				backend.Reply(t, backend.Expect(t, text), "re "+text)
				s.Expect(t, "re "+text)
			}
		}
		// A stream without a first header; and a header that is the client's payload.
		lab.ListenUDP(t, "127.0.0.1:0").Send(t, gatewayUDP, []byte("no header"))
		streams[0].Send(t, gatewayUDP, lab.V2Datagram(netip.MustParseAddrPort("203.0.113.1:1"), dest4, "another client"),
			[]byte("dropped"))
		streams[1].Send(t, gatewayUDP, []byte("still here"))
		backend.Expect(t, "still here")
		backend.Empty(t)
		g.NextConnection(t).Expect(t, "client", client4.String(), "datagrams_in", "3", "datagrams_out", "3", "by", "peer")
		g.Signal(syscall.SIGTERM) // otherwise the last drops are logged ten seconds later
		g.Signal(syscall.SIGTERM)
		await.Until(t, "all drops are logged", func() bool {
			details := ""
			for _, line := range g.Log() {
				details += line.String("detail") + "\n"
			}
			return strings.Contains(details, "no_flow") && strings.Contains(details, "other_client 1")
		})
	})
}

// The Simple Proxy Protocol in both directions, with IPv4 and IPv6 clients over one
// socket:
//
//	spectrum ──38 bytes+payload──▶ gateway --udp-header spp ──payload──▶ backend :3000
//	         ◀──the same 38 bytes+reply──                   ◀──reply──
func TestSimpleProxyProtocol(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := udpGateway(t, "--udp-header", "spp", "--udp-idle-timeout", idle)
		spectrum := lab.ListenUDP(t, "127.0.0.1:0")
		heads := [][]byte{lab.SPP(client4, dest4), lab.SPP(other4, dest4), lab.SPP(client6, dest6)}
		var sources []netip.AddrPort
		for i, head := range heads {
			spectrum.Send(t, gatewayUDP, append(head, fmt.Sprint("hello ", i)...))
			sources = append(sources, backend.Expect(t, fmt.Sprint("hello ", i)))
		}
		for i, head := range heads {
			for _, reply := range []string{"first", "", strings.Repeat("x", 65507-len(head))} { // also without a request
				backend.Reply(t, sources[i], reply)
				spectrum.Expect(t, string(head)+reply)
			}
		}
		spectrum.Send(t, gatewayUDP, []byte("\x56\xec too short"), []byte("plain"))
		backend.Empty(t)
		for range heads {
			line := g.NextConnection(t)
			line.Expect(t, "outcome", "ok", "version", "0", "datagrams_in", "1", "datagrams_out", "3")
			if c := line.AddrPort("client"); c != client4 && c != other4 && c != client6 {
				t.Errorf("client %v", c)
			}
		}
	})
}

// Empty datagrams and the largest ones pass in both directions.
func TestUDPLargestAndEmptyDatagrams(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend, peer := lab.ListenUDP(t, "127.0.0.1:3000"), lab.ListenUDP(t, "127.0.0.1:0")
		udpGateway(t)
		header := len(lab.V2Datagram(client4, dest4, ""))
		for _, size := range []int{0, 1, 1400, 65507 - header} {
			payload := strings.Repeat("x", size)
			peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, payload))
			from := backend.Expect(t, payload)
			backend.Reply(t, from, payload)
			peer.Expect(t, payload)
		}
	})
}

// While the backend restarts, datagrams are dropped and counted. Then the same flow
// continues.
func TestUDPFlowSurvivesBackendRestart(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		g := udpGateway(t)
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "one"))
		source := backend.Expect(t, "one")
		backend.Close()
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "two"), lab.V2Datagram(client4, dest4, "three"))
		line := g.WaitLog(t, "datagrams dropped")
		if !strings.Contains(line.String("detail"), "backend_refused") || line.String("forward") != "udp://127.0.0.1:2000" {
			t.Errorf("logged %v", line)
		}
		backend = lab.ListenUDP(t, "127.0.0.1:3000")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "four"))
		if from := backend.Expect(t, "four"); from != source {
			t.Errorf("the flow comes from %v, before it came from %v", from, source)
		}
		backend.Reply(t, source, "five")
		peer.Expect(t, "five")
	})
}

// Five hundred clients send and receive a datagram every 50 ms, like players of a game,
// over ten of the balancer's sockets: no datagram is lost.
func TestUDPGameTrafficIsNotDropped(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const sockets, clients, rounds = 10, 50, 20
		// The bursts of four sockets fit into a receive buffer of the default size, so
		// none is lost while a busy machine keeps the reader waiting.
		bursts := make(chan struct{}, 4)
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		backend.SetReadBuffer(4 << 20)
		g := udpGateway(t, "--log-level", "info")
		go func() {
			buffer := make([]byte, 2000)
			for {
				n, from, err := backend.ReadFromUDPAddrPort(buffer)
				if err != nil {
					return
				}
				backend.WriteToUDPAddrPort(buffer[:n], from)
			}
		}()
		var playing sync.WaitGroup
		for s := range sockets {
			peer := lab.ListenUDP(t, "127.0.0.1:0")
			peer.SetReadBuffer(4 << 20)
			playing.Go(func() { play(t, peer, s, clients, rounds, bursts) })
		}
		playing.Wait()
		for _, line := range g.Log() {
			if line.String("event") != "" {
				t.Errorf("logged %v", line)
			}
		}
	})
}

// play sends the datagrams of a socket's clients in each round. The capacity of bursts
// limits how many sockets do so at the same time.
func play(t *testing.T, peer *lab.Datagrams, socket, clients, rounds int, bursts chan struct{}) {
	for round := range rounds {
		bursts <- struct{}{}
		err := playRound(peer, socket, clients, round)
		<-bursts
		if err != nil {
			t.Errorf("socket %d, round %d: %v", socket, round, err)
			return
		}
		time.Sleep(50 * time.Millisecond) // between two frames of the game
	}
}

// playRound sends a datagram for each of a socket's clients and waits for all replies.
func playRound(peer *lab.Datagrams, socket, clients, round int) error {
	waiting := map[string]bool{}
	for c := range clients {
		text := fmt.Sprintf("%d/%d/%d %s", socket, c, round, strings.Repeat("x", c))
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(socket), byte(c)}), 4711)
		if _, err := peer.WriteToUDPAddrPort(lab.V2Datagram(client, dest4, text),
			netip.MustParseAddrPort(gatewayUDP)); err != nil {
			return err
		}
		waiting[text] = true
	}
	buffer := make([]byte, 2000)
	for len(waiting) > 0 {
		n, _, err := peer.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return fmt.Errorf("%d replies are missing: %w", len(waiting), err)
		}
		if !waiting[string(buffer[:n])] {
			return fmt.Errorf("got %q", buffer[:n])
		}
		delete(waiting, string(buffer[:n]))
	}
	return nil
}

// After SIGTERM established flows continue, new ones are dropped, and the gateway exits
// when the flows are idle:
//
//	lb ──A──▶ gateway ◀── SIGTERM
//	lb ──A, B──▶
func TestUDPDrainKeepsFlows(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend, peer := lab.ListenUDP(t, "127.0.0.1:3000"), lab.ListenUDP(t, "127.0.0.1:0")
		g := udpGateway(t, "--udp-idle-timeout", idle, "--drain-timeout", "1h")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "before"))
		from := backend.Expect(t, "before")
		g.Signal(syscall.SIGTERM)
		g.WaitLine(t, "draining")
		round := 0
		await.Until(t, "new flows are dropped", func() bool {
			round++
			marker := fmt.Sprint("after ", round)
			newcomer := netip.AddrPortFrom(other4.Addr(), uint16(round))
			peer.Send(t, gatewayUDP, lab.V2Datagram(newcomer, dest4, "new"), lab.V2Datagram(client4, dest4, marker))
			created := false
			for {
				data, _ := backend.Next(t)
				created = created || data == "new"
				if data == marker {
					return !created
				}
			}
		})
		backend.Reply(t, from, "still here")
		peer.Expect(t, "still here")
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		g.ConnectionOf(t, client4.String()).Expect(t, "outcome", "ok", "by", "timeout")
	})
}

// At the end of the drain the remaining flows are ended.
func TestUDPDrainTimeoutCutsFlows(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend, peer := lab.ListenUDP(t, "127.0.0.1:3000"), lab.ListenUDP(t, "127.0.0.1:0")
		g := udpGateway(t, "--drain-timeout", "200ms")
		peer.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "hello"))
		backend.Expect(t, "hello")
		g.Signal(syscall.SIGTERM)
		g.NextConnection(t).Expect(t, "outcome", "drained", "phase", "relay", "by", "gateway", "client", client4.String())
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

// At the limit a new flow replaces the one that has been idle the longest.
func TestUDPMaxFlowsEvictsLongestIdle(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend, peer := lab.ListenUDP(t, "127.0.0.1:3000"), lab.ListenUDP(t, "127.0.0.1:0")
		g := udpGateway(t, "--udp-max-flows", "10", "--loops", "1")
		for i := range 15 {
			client := netip.AddrPortFrom(client4.Addr(), uint16(1000+i))
			peer.Send(t, gatewayUDP, lab.V2Datagram(client, dest4, "hello"))
			backend.Expect(t, "hello")
		}
		for i := range 5 {
			g.NextConnection(t).Expect(t, "outcome", "limit",
				"client", netip.AddrPortFrom(client4.Addr(), uint16(1000+i)).String())
		}
	})
}

// An address in use is an error, also with several loops.
func TestUDPAddressInUseIsAnError(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		udpGateway(t, "--loops", "2")
		output, code := lab.RunGateway(t, "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--loops", "2")
		if code != 1 || !strings.Contains(output, "listen on udp://127.0.0.1:2000") || !strings.Contains(output, "the address is in use") {
			t.Errorf("exit code %d: %s", code, output)
		}
	})
}
