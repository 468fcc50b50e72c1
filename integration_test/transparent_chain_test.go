package integration_test

import (
	"path/filepath"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

//	client                        load balancer, gateway and server
//	203.0.113.9  ── client0 ──▶ 203.0.113.1:80   HAProxy ──send-proxy-v2──▶ unproxy 127.0.0.1:8080
//	2001:db8::9                 [2001:db8::1]:80                               │ from the client's address
//	                                                                           ▼
//	                                                          nginx 127.0.0.1:8081, [::1]:8081
//
// All programs in the chain are real. nginx's log must have curl's address and port, and
// the replies must return to the gateway although the client's address exists on the
// network.
func TestTransparentChain(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy", "nginx", "curl", "nsenter", "unshare")
		client := lab.NewHost(t, "client0", "203.0.113.9/24", "2001:db8::9/64")
		netns.IP(t, "address add 203.0.113.1/24 dev client0")
		netns.IP(t, "-6 address add 2001:db8::1/64 dev client0 nodad")
		_, dir := lab.Nginx(t, `
			events { }
			http { `+lab.NginxTemporary+`
				log_format client "from $remote_addr port $remote_port: $request";
				access_log logs/access client;
				server { listen 127.0.0.1:8081; listen [::1]:8081; return 200 "$remote_addr port $remote_port\n"; }
			}`, "127.0.0.1:8081", "[::1]:8081")
		returnPath(t, "127.0.0.1:8081")
		returnPath(t, "[::1]:8081")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:8080=127.0.0.1:8081,[::1]:8081",
			"--trust", "127.0.0.1", "--transparent", "on", "--source-port", "keep")
		lab.HAProxy(t, `
			defaults
				mode tcp
				timeout connect 3m
				timeout client 3m
				timeout server 3m
			listen web
				bind 203.0.113.1:80
				bind [2001:db8::1]:80
				server unproxy 127.0.0.1:8080 send-proxy-v2
			`, "203.0.113.1:80", "[2001:db8::1]:80")
		for _, tt := range []struct{ port, url, source, backend string }{
			{"4711", "http://203.0.113.1/", "203.0.113.9", "127.0.0.1:8081"},
			{"4712", "http://[2001:db8::1]/", "2001:db8::9", "[::1]:8081"},
		} {
			output, code := lab.Run(t, client.On(lab.Command{Name: "curl", Args: []string{
				"--silent", "--show-error", "--max-time", "180", "--local-port", tt.port, tt.url,
			}}))
			if want := tt.source + " port " + tt.port; output != want || code != 0 {
				t.Errorf("curl %s printed %q with exit code %d, want %q", tt.url, output, code, want)
			}
			lab.WaitFile(t, filepath.Join(dir, "logs", "access"), "from "+tt.source+" port "+tt.port+": GET / HTTP/1.1\n")
			g.NextConnection(t).Expect(t, "outcome", "ok", "transparent", "true", "backend", tt.backend)
		}
	})
}
