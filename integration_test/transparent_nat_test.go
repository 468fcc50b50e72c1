package integration_test

import (
	"io"
	"net/netip"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// the gateway's host 10.9.0.1 ── back0 ══ 10.9.0.2 the backend's
//
// A stray rule rewrites the source on the way to the backend, which connects all
// the same and sees the gateway. The doctor says so, also as the gateway's user
// with CAP_NET_RAW alone, and so does the running gateway. What the doctor prints
// restores the client's address and leaves other connections rewritten.
func TestRewrittenSourceIsReported(t *testing.T) {
	for _, tt := range []struct{ name, rules string }{
		{"nft masquerade", "add table ip nat; add chain ip nat p { type nat hook postrouting priority srcnat; }; add rule ip nat p oifname back0 masquerade; " +
			"add table ip6 nat; add chain ip6 nat p { type nat hook postrouting priority srcnat; }; add rule ip6 nat p oifname back0 masquerade"},
		{"another port", "add table inet n; add chain inet n p { type nat hook postrouting priority srcnat; }; " +
			"add rule inet n p oifname back0 meta l4proto tcp masquerade to :20000-20100 fully-random"},
		{"snat on one device", "add table inet n; add chain inet n p { type nat hook postrouting priority 90; }; " +
			"add rule inet n p oifname back0 meta nfproto ipv4 snat ip to 10.9.0.1; add rule inet n p oifname back0 meta nfproto ipv6 snat ip6 to fd09::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "nginx", "nft")
				p := places[3]
				h := container(t)
				lab.NginxOn(t, h, whoAmI(p.backends))
				await.Until(t, "neighbours know each other", func() bool { return answers(t, p) })
				routes(t, "apply", p.flags())
				diagnosed(t, 0, p.flags()...)
				g := lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()},
					append(p.flags(), "--admin", adminAt, "--self-test-interval", "1s")...)
				await.Until(t, "the gateway is ready", func() bool { return len(notReady(t, adminAt)) == 0 })
				wantSeen(t, g)

				lab.Output(t, "nft", tt.rules)
				rewritten(t, g, client4, "10.9.0.1")
				rewritten(t, g, client6, "fd09::1")
				line := g.WaitLog(t, "client address rewritten")
				line.Expect(t, "level", "error", "forward", "127.0.0.1:2000")
				if !strings.Contains(line.String("detail"), "the backend sees ") || !strings.HasPrefix(line.String("action"), "nft 'table inet unproxy_source") {
					t.Errorf("the log says %v", line)
				}
				await.Until(t, "the gateway is not ready", func() bool {
					return strings.Join(notReady(t, adminAt), " ") == "return_path"
				})
				limited := diagnosedAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()}, 3, p.flags()...)
				sick := diagnosed(t, 3, p.flags()...)
				for _, want := range []string{"but the backend sees 10.9.0.1:", "but the backend sees fd09::1:"} {
					if !strings.Contains(sick, want) || !strings.Contains(limited, want) {
						t.Errorf("the doctor does not say %q:\n%s\nwith CAP_NET_RAW alone\n%s", want, sick, limited)
					}
				}
				if !strings.Contains(sick, "# a rule of chain p: ") || !strings.Contains(limited, "only root can see which rule does") {
					t.Errorf("the doctor does not quote the rule:\n%s\nor with CAP_NET_RAW alone that it cannot\n%s", sick, limited)
				}
				lab.Shell(t, prescribed(sick))
				diagnosed(t, 0, p.flags()...)
				wantSeen(t, g)
				await.Until(t, "the gateway is ready again", func() bool { return len(notReady(t, adminAt)) == 0 })
				g.WaitLog(t, "return path works again")
			})
		})
	}
}

// rewritten sends a request for a client, and wants the backend to have seen
// another address.
func rewritten(t *testing.T, g *lab.Gateway, client netip.AddrPort, seen string) {
	t.Helper()
	c := lab.Send(t, "127.0.0.1:2000", headerOf(client), []byte(whoAsk))
	reply, err := io.ReadAll(c)
	c.Close()
	if !strings.Contains(string(reply), "hello "+seen+" port ") {
		t.Errorf("the backend answered %q, %v; want it to have seen %s", reply, err, seen)
	}
	g.NextConnection(t)
}
