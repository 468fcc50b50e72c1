package integration_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// query is a DNS query for the A record of www.example.test, and answer the address in
// the response.
const (
	query  = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x04test\x00\x00\x01\x00\x01"
	answer = "192.0.2.55"
)

// A name server without the PROXY protocol logs the clients of the balancer, and answers
// the balancer's health checks:
//
//	client                        this host
//	10.9.0.2 ═════════ 10.9.0.1  dnsdist :53 ──v2 in each datagram, and on TCP──▶ gateway 127.0.0.1:2000
//	fd09::2            fd09::1   dnsdist :53 ──v2──▶                                ├─▶ dnsmasq 127.0.0.1:3000
//	                                                                                └─▶ dnsmasq [::1]:3000
func TestDNS(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "dnsdist", "dnsmasq")
		client := container(t)
		server := lab.Dnsmasq(t, "www.example.test", answer, "127.0.0.1:3000", "[::1]:3000")
		returnPath(t, "udp://127.0.0.1:3000", "udp://[::1]:3000", "127.0.0.1:3000", "[::1]:3000")
		g := lab.StartGateway(t, "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000,[::1]:3000",
			"--forward", "127.0.0.1:2000=127.0.0.1:3000,[::1]:3000", "--trust", "127.0.0.1",
			"--transparent", "--udp-idle-timeout", idle)
		lab.Dnsdist(t, `
			setLocal('10.9.0.1:53')
			addLocal('[fd09::1]:53')
			setUDPTimeout(60)
			newServer({address='127.0.0.1:2000', useProxyProtocol=true, tcpRecvTimeout=60,
				checkInterval=1, checkTimeout=60000, checkName='www.example.test.', checkType='A'})
		`, "10.9.0.1:53", "[fd09::1]:53")
		server.WaitLine(t, "query[A] www.example.test from 127.0.0.1") // a health check of dnsdist: LOCAL, from the gateway's address
		for _, path := range []struct{ to, client string }{{"10.9.0.1:53", "10.9.0.2"}, {"[fd09::1]:53", "fd09::2"}} {
			for _, protocol := range []string{"udp", "tcp"} {
				ask := []string{"probe", "--timeout", await.Patience.String(), "--to", path.to,
					"--no-header", "--send", escaped(query)}
				if protocol == "udp" {
					ask = append(ask, "--udp")
				} else {
					ask[len(ask)-1] = escaped(fmt.Sprintf("\x00%c%s", len(query), query))
				}
				output, code := lab.Run(t, client.On(lab.Command{Name: lab.Binary(t), Args: ask}))
				if code != 0 || !strings.Contains(output, `\xc0\x00\x027`) {
					t.Fatalf("%s to %s: exit code %d:\n%s", protocol, path.to, code, output)
				}
				seen := g.ConnectionOf(t, path.client)
				source := seen.AddrPort("client")
				server.WaitLine(t, fmt.Sprintf("%s/%d query[A] www.example.test from %s", path.client, source.Port(), path.client))
				seen.Expect(t, "outcome", "ok", "transparent", "true", "source", "", "destination", path.to, "version", "2")
				if protocol == "udp" {
					seen.Expect(t, "protocol", "udp", "datagrams_in", "1", "datagrams_out", "1", "bytes_in", fmt.Sprint(len(query)),
						"by", "timeout")
				}
			}
		}
	})
}

// kdig sends a header before its query, and the name server logs the client that it names:
//
//	kdig ──v2, UDP──▶ gateway 127.0.0.1:2000 ──▶ dnsmasq 127.0.0.1:3000, [::1]:3000
func TestKdigSends(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "kdig", "dnsmasq")
		server := lab.Dnsmasq(t, "www.example.test", answer, "127.0.0.1:3000", "[::1]:3000")
		returnPath(t, "udp://127.0.0.1:3000", "udp://[::1]:3000")
		g := lab.StartGateway(t, "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000,[::1]:3000", "--trust", "127.0.0.1",
			"--transparent", "--udp-idle-timeout", idle)
		for _, a := range []struct{ client, destination netip.AddrPort }{{client4, dest4}, {client6, dest6}} {
			kdig(t, a.client, a.destination.String(), "+notcp")
			server.WaitLine(t, fmt.Sprintf("%v/%d query[A] www.example.test from %[1]v", a.client.Addr(), a.client.Port()))
			g.ConnectionOf(t, a.client.String()).Expect(t, "outcome", "ok", "protocol", "udp", "version", "2",
				"transparent", "true", "destination", a.destination.String())
		}
	})
}

// escaped formats bytes for the flag --send of unproxy probe.
func escaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}
