package integration_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// nginx whose realip module has replaced the client names the client's family and
// the address that it accepted the connection on, of whichever family that is. The
// first table is what it really sends; the gateway accepts it with the flag and only
// then, and in transparent mode the backend sees the client:
//
//	balancer ──header──▶ nginx [::1]:1000, 127.0.0.1:1000, [::]:1100 ──▶ the test :2000
//	                           …01 ──▶ gateway :2001, strict
//	                           …02 ──▶ gateway :2002, --v1-mixed-families ──▶ backend :3000
//	                           …03 ──▶ gateway :2003, --v1-ipv4-in-tcp6   ──▶ backend :3000
//	                           …04 ──▶ gateway :2004, transparent ──▶ backend 127.0.0.1:3000, [::1]:3000
func TestNginxMixedFamilies(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx")
		line := lab.Listen(t, "127.0.0.1:2000")
		backends := map[string]*lab.Backend{"127.0.0.1": lab.Listen(t, "127.0.0.1:3000"), "::1": lab.Listen(t, "[::1]:3000")}
		returnPath(t, "127.0.0.1:3000")
		returnPath(t, "[::1]:3000")
		gateway := func(port int, backend string, flags ...string) *lab.Gateway {
			forward := fmt.Sprintf("127.0.0.1:%d=%s", port, backend)
			return lab.StartGateway(t, append([]string{"--forward", forward, "--trust", "127.0.0.1"}, flags...)...)
		}
		strict := gateway(2001, "127.0.0.1:3000")
		mixed := gateway(2002, "127.0.0.1:3000", "--v1-mixed-families")
		former := gateway(2003, "127.0.0.1:3000", "--v1-ipv4-in-tcp6")
		transparent := gateway(2004, "127.0.0.1:3000,[::1]:3000", "--v1-mixed-families", "--transparent", "on")
		nginxRealIP(t, 5)

		for _, row := range []struct {
			client      netip.AddrPort
			entry, sent string // what nginx sends, for the first of the ports
			backend     string
			conforms    bool // to the specification
			reason      string
		}{
			{client4, "[::1]:1000", "PROXY TCP4 192.0.2.9 ::1 4711 1000", "127.0.0.1", false, "ipv4 syntax"},
			{client6, "127.0.0.1:1000", "PROXY TCP6 2001:db8::9 127.0.0.1 4711 1000", "::1", false, "ipv4 address in a TCP6 line"},
			{client4, "127.0.0.1:1100", "PROXY TCP4 192.0.2.9 ::ffff:127.0.0.1 4711 1100", "127.0.0.1", false, "ipv4 syntax"},
			{client6, "127.0.0.1:1100", "PROXY TCP6 2001:db8::9 ::ffff:127.0.0.1 4711 1100", "::1", true, ""},
			{client4, "[::1]:1100", "PROXY TCP4 192.0.2.9 ::1 4711 1100", "127.0.0.1", false, "ipv4 syntax"},
			{client4, "127.0.0.1:1000", "PROXY TCP4 192.0.2.9 127.0.0.1 4711 1000", "127.0.0.1", true, ""},
			{client6, "[::1]:1000", "PROXY TCP6 2001:db8::9 ::1 4711 1000", "::1", true, ""},
		} {
			entry := netip.MustParseAddrPort(row.entry)
			through := func(number uint16) netip.AddrPort { return netip.AddrPortFrom(entry.Addr(), entry.Port()+number) }
			send := func(number uint16) {
				conn := lab.Send(t, through(number).String(), lab.V1(row.client, destOf(row.client)), []byte("payload"))
				conn.CloseWrite()
			}
			send(0)
			from := line.Next(t)
			wantRead(t, from, row.sent+"\r\npayload")
			from.Close()

			if send(1); row.conforms {
				behind := backends["127.0.0.1"].Next(t)
				behind.Close()
				strict.NextConnection(t).Expect(t, "client", row.client.String())
			} else {
				strict.NextConnection(t).Expect(t, "outcome", "malformed", "reason", row.reason, "client", "", "backend", "")
			}
			for number, g := range map[uint16]*lab.Gateway{2: mixed, 3: former, 4: transparent} {
				send(number)
				server := "127.0.0.1"
				if number == 4 {
					server = row.backend
				}
				behind := backends[server].Next(t)
				wantRead(t, behind, "payload")
				if seen := behind.RemoteAddr().String(); number == 4 && seen != row.client.String() {
					t.Errorf("%s: the backend sees %s, want %v", row.sent, seen, row.client)
				}
				behind.Close()
				g.NextConnection(t).Expect(t, "version", "1", "client", row.client.String(),
					"destination", through(number).String(), "transparent", fmt.Sprint(number == 4))
			}
		}
	})
}

func destOf(client netip.AddrPort) netip.AddrPort {
	if client.Addr().Is6() {
		return dest6
	}
	return dest4
}

// nginxRealIP starts nginx as a load balancer behind another: what comes to port
// 1000+i of a loopback address, or to port 1100+i of one socket for both families,
// goes to port 2000+i, with the client that the header names.
func nginxRealIP(t *testing.T, number int) {
	t.Helper()
	module := streamModule(t)
	var servers strings.Builder
	var listening []string
	for i := range number {
		for _, listen := range []string{
			fmt.Sprintf("127.0.0.1:%d", 1000+i), fmt.Sprintf("[::1]:%d", 1000+i), fmt.Sprintf("[::]:%d", 1100+i),
		} {
			options := ""
			if strings.HasPrefix(listen, "[::]") {
				options = " ipv6only=off"
			}
			fmt.Fprintf(&servers, "server { listen %s%s proxy_protocol; proxy_pass 127.0.0.1:%d; }\n", listen, options, 2000+i)
			listening = append(listening, listen)
		}
	}
	lab.Nginx(t, `load_module `+module+`;
events {}
stream {
	set_real_ip_from 127.0.0.0/8;
	set_real_ip_from ::1;
	proxy_protocol on;
	proxy_half_close on;
	`+servers.String()+`
}`, listening...)
}
