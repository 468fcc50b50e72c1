package integration_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// With SYN cookies the kernel knows nothing of a handshake before its last packet. So it ignores a RST that
// overtakes that packet, and the gateway gets a connection whose peer is gone: its outcome is header_timeout,
// not empty. The control is a kernel that keeps handshakes in its queue: it accepts no such connection.
//
//	peer by hand ──SYN, ACK──▶ gateway :toaPort    the peer's kernel, which has no socket, answers the SYN-ACK by a RST
func TestResetOvertakesHandshake(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g := lab.StartGateway(t, "--forward", fmt.Sprintf("127.0.0.1:%d=127.0.0.1:3000", toaPort), "--trust", "127.0.0.0/8",
			"--header-timeout", "500ms", "--log-level", "debug")
		peer := newRawPeer(t, "127.0.0.9", "127.0.0.1")
		netns.Sysctl(t, "net.ipv4.tcp_syncookies", "0")
		before := peer.handshake(rawFirstPort)
		await.Until(t, "the control's last packet is answered by a RST", func() bool { return resetsSent(t) >= before+2 })

		netns.Sysctl(t, "net.ipv4.tcp_syncookies", "2") // always
		const tries = 10                                // of each, the RST may come last: then the outcome is empty
		var outcomes []string
		for i := range uint16(tries) {
			peer.handshake(rawFirstPort + 1 + i)
			entry := g.NextConnection(t)
			if want := fmt.Sprintf("127.0.0.9:%d", rawFirstPort+1+i); entry.String("peer") != want {
				t.Fatalf("a connection from %s, want %s", entry.String("peer"), want)
			}
			if outcomes = append(outcomes, entry.String("outcome")); outcomes[i] == "header_timeout" {
				return
			}
		}
		t.Errorf("outcomes %q, want one header_timeout", outcomes)
	})
}

// newRawPeer is a rawGateway on lo.
func newRawPeer(t *testing.T, from, to string) *rawGateway {
	t.Helper()
	g := &rawGateway{t: t, from: netip.MustParseAddr(from), to: netip.MustParseAddr(to)}
	g.answers = make(chan rawSegment, 100)
	g.open(unix.AF_INET, unix.ETH_P_IP)
	return g
}

// handshake sends a SYN, waits for the SYN-ACK and for the RST that the kernel answers it by, and sends the ACK.
// It returns the number of RSTs that had been sent before.
func (g *rawGateway) handshake(port uint16) (resets int) {
	g.t.Helper()
	const syn, ack = 0x02, 0x10
	resets = resetsSent(g.t)
	g.segment(port, 1000, 0, syn, nil, nil)
	select {
	case answer := <-g.answers:
		await.Until(g.t, "the SYN-ACK is answered by a RST", func() bool { return resetsSent(g.t) > resets })
		g.segment(port, 1001, answer.sequence+1, ack, nil, nil)
	case <-time.After(await.Patience):
		g.t.Fatal("the SYN is not answered")
	}
	return resets
}

// resetsSent returns how many RSTs the namespace has sent.
func resetsSent(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Tcp:") {
			lines = append(lines, strings.Fields(line))
		}
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines about TCP in %s", len(lines), text)
	}
	i := slices.Index(lines[0], "OutRsts")
	if i < 0 || i >= len(lines[1]) {
		t.Fatalf("no OutRsts in %q", lines)
	}
	n, err := strconv.Atoi(lines[1][i])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
