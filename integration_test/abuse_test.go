package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// metric returns the value of a metric with its labels, as the admin endpoint writes it.
func metric(t *testing.T, name string) int {
	t.Helper()
	_, text := adminGet(t, adminAt, "/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return firstMatch(t, name, value, `^(\d+)\n$`)
		}
	}
	return 0
}

// closedFrom is the metric of the connections of plainGateway that ended with an outcome in a phase.
func closedFrom(outcome, phase string) string {
	return fmt.Sprintf(`unproxy_connections_closed_total{forward="127.0.0.1:2000",outcome=%q,phase=%q}`, outcome, phase)
}

// Trusted peers that send their headers byte by byte end at the deadline of the header. Others are served
// meanwhile, and nothing remains:
//
//	100 × peer ──b─y─t─e─s──▶ gateway :2000, --header-timeout 2s ──▶ echo :3000
//	4 × conn   ──header─────▶
func TestSlowHeadersOfManyPeers(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const peers = 100
		lab.Echo(t, "127.0.0.1:3000")
		g := plainGateway(t, "--trust", "127.0.0.0/8", "--header-timeout", "2s", "--admin", adminAt)
		before := openDescriptors(t, g.PID())
		load := startLoad(t, 4, echoes(t, "127.0.0.1:2000"))
		header := lab.V2(client4, dest4, make([]byte, 300)...)
		var drippers sync.WaitGroup
		for i := range peers {
			conn := dialFrom(t, fmt.Sprintf("127.0.2.%d", 1+i), "127.0.0.1:2000")
			drippers.Go(func() {
				if drip(conn, header, 100*time.Millisecond) == len(header) {
					t.Error("a header that took half a minute was accepted")
				}
				conn.Close()
			})
		}
		load.goesOn()
		drippers.Wait()
		load.goesOn()
		load.stop()
		wantMetrics(t, closedFrom("header_timeout", "header")+fmt.Sprintf(" %d", peers))
		await.Until(t, "the descriptors are closed", func() bool { return openDescriptors(t, g.PID()) <= before })
	})
}

// A peer that announces the longest header holds what it has sent, not what it has announced:
//
//	500 × peer ──16 bytes, then 1000 more──▶ gateway :2000 ──▶ backend :3000
func TestAnnouncedHeadersHoldLittle(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const peers, more = 500, 1000
		lab.Echo(t, "127.0.0.1:3000")
		g := plainGateway(t, "--max-header", "65551", "--header-timeout", "0", "--admin", adminAt)
		before := openDescriptors(t, g.PID())
		header := lab.V2(client4, dest4, make([]byte, 65535-12)...)
		var conns []*net.TCPConn
		for range peers {
			conns = append(conns, lab.Send(t, "127.0.0.1:2000", header[:16]))
		}
		holds := func(least, most int) {
			t.Helper()
			held := 0
			await.Until(t, fmt.Sprintf("%d bytes are held", peers*least), func() bool {
				held = metric(t, "unproxy_buffered_bytes")
				return held >= peers*least
			})
			t.Logf("%d bytes for each connection that sent %d", held/peers, least)
			if held > peers*most {
				t.Errorf("%d bytes are held for %d headers of %d bytes, want at most %d for each", held, peers, least, most)
			}
		}
		holds(16, 2*16)
		for _, conn := range conns {
			write(t, conn, header[16:16+more])
		}
		holds(16+more, 2*(16+more)) // append(3) at most doubles a slice
		// The connection that asked for the metrics may still be open.
		await.Until(t, "there is one descriptor for each connection",
			func() bool { return openDescriptors(t, g.PID())-before <= peers })
		for _, conn := range conns[1:] {
			conn.Close()
		}
		write(t, conns[0], append(header[16+more:], "payload"...))
		wantRead(t, conns[0], "payload")
		wantMetrics(t, closedFrom("truncated", "header")+fmt.Sprintf(" %d", peers-1), "unproxy_buffered_bytes 0")
	})
}

// The longest headers of the smallest TLVs are accepted, in one piece and in many, while others are
// served:
//
//	20 × conn ──header of 21 841 TLVs, payload──▶ gateway :2000 ──▶ echo :3000
func TestHeadersOfManyTLVs(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		plainGateway(t, "--max-header", "65551", "--admin", adminAt)
		load := startLoad(t, 2, echoes(t, "127.0.0.1:2000"))
		for _, tlv := range []string{"\xe0\x00\x00", "\x04\x00\x00", "\xea\x00\x01\x02", "\x20\x00\x05\x00\x00\x00\x00\x00"} {
			tlvs := bytes.Repeat([]byte(tlv), (65535-12)/len(tlv))
			all := append(lab.V2(client4, dest4, tlvs...), "payload"...)
			for _, size := range []int{len(all), 997} {
				var pieces [][]byte
				for rest := all; len(rest) > 0; rest = rest[min(size, len(rest)):] {
					pieces = append(pieces, rest[:min(size, len(rest))])
				}
				conn := lab.Send(t, "127.0.0.1:2000", pieces...)
				wantRead(t, conn, "payload")
				conn.Close()
			}
		}
		load.goesOn()
		load.stop()
		wantMetrics(t, closedFrom("ok", "relay")+" 8", "unproxy_buffered_bytes 0")
	})
}

// A flood of peers that are not trusted is refused. Others are served meanwhile, and the log has a few
// lines of each second and the number of those that it leaves out:
//
//	2000 × 127.9.x.y ──header──▶ gateway :2000 ──▶ echo :3000
//	2 × 127.0.0.1    ──header──▶
func TestFloodOfUntrustedPeers(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const peers = 2000
		lab.Echo(t, "127.0.0.1:3000")
		g := plainGateway(t, "--admin", adminAt)
		load := startLoad(t, 2, echoes(t, "127.0.0.1:2000"))
		load.goesOn()
		for i := range peers {
			conn, err := (&net.Dialer{Timeout: await.Patience,
				LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, byte(i>>8), byte(i))}}).Dial("tcp", "127.0.0.1:2000")
			if err != nil {
				continue // the reset can arrive before connect(2) returns
			}
			conn.Write(lab.V2(client4, dest4))
			conn.SetDeadline(await.Deadline(t))
			if answer, _ := io.ReadAll(conn); len(answer) > 0 {
				t.Errorf("an untrusted peer got %q", answer)
			}
			conn.Close()
		}
		load.goesOn()
		load.stop()
		wantMetrics(t, closedFrom("untrusted", "trust")+fmt.Sprintf(" %d", peers))
		wantFewLines(t, g, "untrusted", peers)
	})
}

// wantFewLines waits until the lines of an outcome and those that the log reports as left out are n. No
// second may have more than ten lines.
func wantFewLines(t *testing.T, g *lab.Gateway, outcome string, n int) {
	t.Helper()
	perSecond, written := map[string]int{}, 0
	await.Until(t, fmt.Sprintf("%d connections are in the log", n), func() bool {
		total := 0
		written = 0
		clear(perSecond)
		for _, l := range g.Log() {
			switch {
			case l.String("outcome") != outcome:
			case l.String("message") == "connection":
				second, _, _ := strings.Cut(l.String("time"), ".")
				perSecond[second]++
				written++
				total++
			case l.String("message") == "connections left out":
				total += int(l["count"].(float64))
			}
		}
		return total == n
	})
	t.Logf("%d of %d connections have a line", written, n)
	for second, lines := range perSecond {
		if lines > burst {
			t.Errorf("%d lines at %s, want at most %d", lines, second, burst)
		}
	}
}

// The limits on peers and clients hold for each of many: those that keep within them are served, while
// one that does not is refused:
//
//	500 peers, 1000 clients, once each ──▶ gateway :2000, --accept-rate, --client-rate ──▶ echo :3000
//	127.0.0.1, again and again         ──▶
func TestRatesWithManyAddresses(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const peers = 500
		lab.Echo(t, "127.0.0.1:3000")
		g := plainGateway(t, "--trust", "127.0.0.0/8", "--accept-rate", "2/2", "--client-rate", "1/1",
			"--max-connections-per-client", "1", "--admin", adminAt, "--log-level", "info")
		done := make(chan struct{})
		var flooding sync.WaitGroup
		flooding.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				conn, err := net.Dial("tcp", "127.0.0.1:2000")
				if err == nil {
					conn.Close()
				}
			}
		})
		for i := range peers {
			peer := fmt.Sprintf("127.3.%d.%d", i>>8, i&0xff)
			for j := range 2 {
				client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(j), byte(i >> 8), byte(i)}), 1)
				conn := dialFrom(t, peer, "127.0.0.1:2000")
				write(t, conn, append(lab.V2(client, dest4), "hello"...))
				wantRead(t, conn, "hello")
				conn.Close()
			}
		}
		await.Until(t, "the flood is refused", func() bool { return metric(t, closedFrom("limit", "trust")) > 0 })
		close(done)
		flooding.Wait()
		wantMetrics(t, closedFrom("ok", "relay")+fmt.Sprint(" ", 2*peers))
		if n := metric(t, closedFrom("limit", "dial")); n != 0 {
			t.Errorf("%d clients were refused, want none", n)
		}
		if len(g.Logged("log lines dropped")) > 0 {
			t.Error("the log dropped lines")
		}
	})
}
