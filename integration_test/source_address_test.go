package integration_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// With two source ports, a backend has two connections from each source address. The control
// without the flag has two:
//
//	conns ──header──▶ gateway, source ports 45000 and 45001 ──▶ [127.0.0.1|::1]:3000
func TestSourceAddressesHaveTheirOwnPorts(t *testing.T) {
	t.Parallel()
	const ports = 2
	for _, tt := range []struct {
		name, host string
		flags      []string
		want       map[string]int // connections by source address
	}{
		{"without the flag", "127.0.0.1", nil, map[string]int{"127.0.0.1": ports}},
		{"without the flag, IPv6", "[::1]", nil, map[string]int{"::1": ports}},
		{"one address", "127.0.0.1", []string{"--source-address", "10.9.0.7"}, map[string]int{"10.9.0.7": ports}},
		{"two addresses and a prefix", "127.0.0.1",
			[]string{"--source-address", "10.9.0.7", "--source-address", "10.9.0.8", "--source-address", "10.77.0.0/31"},
			map[string]int{"10.9.0.7": ports, "10.9.0.8": ports, "10.77.0.0": ports, "10.77.0.1": ports}},
		{"a loopback prefix, two loops", "127.0.0.1", []string{"--source-address", "127.1.0.0/31", "--loops", "2"},
			map[string]int{"127.1.0.0": ports, "127.1.0.1": ports}},
		{"IPv6", "[::1]", []string{"--source-address", "2001:db8:9::7", "--source-address", "2001:db8:77::/127"},
			map[string]int{"2001:db8:9::7": ports, "2001:db8:77::": ports, "2001:db8:77::1": ports}},
		{"of the other family", "[::1]", []string{"--source-address", "10.9.0.7"}, map[string]int{"::1": ports}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				ownAddresses(t)
				b := lab.Listen(t, tt.host+":3000")
				g := lab.StartGateway(t, append([]string{"--forward", "127.0.0.1:2000=" + tt.host + ":3000",
					"--trust", "127.0.0.1", "--header-timeout", "0", "--log-level", "info"}, tt.flags...)...)
				conns := make([]*net.TCPConn, ports*len(tt.want)+1)
				for i := range conns { // they have their ports before there are few
					conns[i] = lab.Dial(t, "127.0.0.1:2000")
				}
				netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45001")
				got := map[string]int{}
				seen := map[netip.AddrPort]bool{}
				for _, conn := range conns[:len(conns)-1] {
					write(t, conn, lab.V2(client4, dest4))
					from := lab.Peer(b.Next(t))
					got[from.Addr().String()]++
					seen[from] = true
				}
				if fmt.Sprint(got) != fmt.Sprint(tt.want) || len(seen) != len(conns)-1 {
					t.Errorf("connections by source: %v, want %v", got, tt.want)
				}
				last := conns[len(conns)-1]
				write(t, last, lab.V2(client4, dest4))
				wantReset(t, last)
				line := g.NextConnection(t)
				line.Expect(t, "outcome", "limit", "phase", "dial", "by", "gateway", "transparent", "false")
				wantMatch(t, line, "reason", "^no source port is left towards the backend")
				conns[0].CloseWrite()
				logsSource(t, g, seen, len(tt.flags) > 0 && tt.name != "of the other family")
			})
		})
	}
}

// ownAddresses gives the namespace addresses and local prefixes.
func ownAddresses(t *testing.T) {
	t.Helper()
	for _, command := range []string{
		"address add 10.9.0.7/32 dev lo", "address add 10.9.0.8/32 dev lo", "route add local 10.77.0.0/28 dev lo",
		"-6 address add 2001:db8:9::7/128 dev lo nodad", "-6 route add local 2001:db8:77::/120 dev lo",
	} {
		netns.IP(t, command)
	}
}

// logsSource ends the gateway and compares the source in the line of a relayed connection with what the backend
// saw.
func logsSource(t *testing.T, g *lab.Gateway, seen map[netip.AddrPort]bool, want bool) {
	t.Helper()
	g.Signal(syscall.SIGTERM)
	g.Signal(syscall.SIGTERM) // cuts what is left
	for range seen {
		line := g.NextConnection(t)
		if source := line.AddrPort("source"); seen[source] != want || line.String("source") != "" && !want {
			t.Errorf("logged source %q, want one of %v: %v", line.String("source"), seen, want)
		}
	}
}

// The same for UDP: a flow takes a port of its address, and if all are taken, the flow that was
// idle longest makes room.
func TestSourceAddressesOfUDP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		ownAddresses(t)
		b := lab.ListenUDP(t, "127.0.0.1:3000")
		b6 := lab.ListenUDP(t, "[::1]:3000")
		g := lab.StartGateway(t, "--trust", "127.0.0.1", "--loops", "1", "--log-level", "info",
			"--source-address", "10.77.0.0/31", "--source-address", "2001:db8:77::/127",
			"--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--forward", "udp://127.0.0.1:2006=[::1]:3000")
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45001")
		// The fifth flow of the first forward ends the oldest of all, which must be its own.
		for _, row := range []struct {
			to   string
			back *lab.Datagrams
		}{{"127.0.0.1:2000", b}, {"127.0.0.1:2006", b6}} {
			to, back := row.to, row.back
			seen := map[netip.AddrPort]int{}
			for port := range uint16(4) {
				client := netip.AddrPortFrom(client4.Addr(), 1000+port)
				peer.Send(t, to, lab.V2Datagram(client, dest4, "hello"))
				from := back.Expect(t, "hello")
				seen[from]++
				back.Reply(t, from, "and back")
				peer.Expect(t, "and back")
			}
			if len(seen) != 4 {
				t.Errorf("%s: four flows came from %v", to, seen)
			}
			for from := range seen {
				if a := from.Addr().String(); !strings.HasPrefix(a, "10.77.0.") && !strings.HasPrefix(a, "2001:db8:77::") {
					t.Errorf("%s: a flow came from %v", to, from)
				}
			}
		}
		client := netip.AddrPortFrom(client4.Addr(), 2000)
		peer.Send(t, "127.0.0.1:2000", lab.V2Datagram(client, dest4, "fifth"))
		b.Expect(t, "fifth")
		g.NextConnection(t).Expect(t, "outcome", "limit", "reason", "evicted by a newer flow", "transparent", "false")
	})
}

// An address that this host does not have is an error at the start, and at an upgrade, which then
// changes nothing. One that it loses is replaced by the next; without another one connections end
// with the reason.
func TestSourceAddressOfAnotherHost(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		ownAddresses(t)
		flags := []string{"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--loops", "1"}
		output, code := lab.RunGateway(t, append([]string{"serve", "--source-address", "10.9.0.9"}, flags...)...)
		if code != 1 || !strings.Contains(output, "source address 10.9.0.9 is not an address of this host") ||
			!strings.Contains(output, "ip address add 10.9.0.9/32 dev lo") {
			t.Errorf("exit code %d:\n%s", code, output)
		}
		output, code = lab.RunGateway(t, append([]string{"check", "--source-address", "10.9.0.7"}, flags...)...)
		if code != 0 || !strings.Contains(output, "source        10.9.0.7\n") {
			t.Errorf("check: exit code %d:\n%s", code, output)
		}
		output, code = lab.RunGateway(t, append([]string{"doctor", "--source-address", "10.9.0.9"}, flags...)...)
		if code != 3 || !strings.Contains(output, "ip address add 10.9.0.9/32 dev lo") {
			t.Errorf("doctor: exit code %d:\n%s", code, output)
		}

		b := lab.Listen(t, "127.0.0.1:3000")
		g := startLine(t, lab.Command{}, append(flags, "--source-address", "10.9.0.7", "--source-address", "10.9.0.8")...)
		from := func() netip.Addr {
			conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
			defer conn.Close()
			return lab.Peer(b.Next(t)).Addr()
		}
		if one, two := from(), from(); one == two {
			t.Errorf("two connections from %v", one)
		}
		g.upgrade()
		from()
		netns.IP(t, "address del 10.9.0.8/32 dev lo")
		for range 3 {
			if got := from(); got.String() != "10.9.0.7" {
				t.Errorf("a connection from %v", got)
			}
		}
		g.signal(syscall.SIGUSR2)
		await.Until(t, "the upgrade fails", func() bool { return len(g.Logged(upgradeFailed)) > 0 })
		from()
		netns.IP(t, "address del 10.9.0.7/32 dev lo")
		wantEnd(t, lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4)))
		g.WaitLine(t, `"reason":"the source address 10.9.0.`)
	})
}
