package integration_test

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// mostRare is an interval of the self-test that no test waits for: what is noticed,
// is noticed otherwise.
const mostRare = "24h"

// A load balancer that asks for each forward takes the broken one out, and it alone,
// until it is fixed:
//
//	client ──▶ haproxy :1001 ──v2──▶ gateway :2001 ──plain──▶ 127.0.0.1:3001
//	           haproxy :1002 ──v2──▶ gateway :2002 ──transparent, without routes──▶ 127.0.0.1:3002
//	           └ GET /readyz?forward= ──▶ gateway admin :9180
func TestHAProxyAsksForEachForward(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy")
		plain := lab.Listen(t, "127.0.0.1:3001")
		lab.Listen(t, "127.0.0.1:3002")
		flags := []string{"--trust", "127.0.0.1", "--forward", ":2001=127.0.0.1:3001",
			"--forward", ":2002=127.0.0.1:3002?transparent=on"}
		g := lab.StartGateway(t, append(flags, "--admin", adminAt, "--self-test-interval", mostRare)...)
		g.WaitLog(t, "return path broken").Expect(t, "forward", ":2002")
		await.Until(t, "the gateway is ready", func() bool { return readyzCode(t, "") == http.StatusOK })

		stats := filepath.Join(t.TempDir(), "stats")
		check := func(uri, port string) string {
			return "  option httpchk\n  http-check send meth GET uri " + uri + " ver HTTP/1.1 hdr Host localhost\n" +
				"  server s 127.0.0.1:" + port + " send-proxy-v2 check port 9180 inter 50ms rise 1 fall 1\n"
		}
		lab.HAProxy(t, "global\n  stats socket "+stats+haproxyPreamble+
			"listen web\n  bind 127.0.0.1:1001\n"+check("/readyz?forward=:2001", "2001")+
			"listen ssh\n  bind 127.0.0.1:1002\n"+check("/readyz?forward=:2002", "2002")+
			"listen any\n  bind 127.0.0.1:1003\n"+check("/readyz", "2001")+
			"listen all\n  bind 127.0.0.1:1004\n"+check("/readyz?all=1", "2001")+
			"listen misspelled\n  bind 127.0.0.1:1005\n"+check("/readyz?forward=:2003", "2001"),
			"127.0.0.1:1001")
		want := func(when, want string) {
			t.Helper()
			var got string
			await.Until(t, when+", HAProxy sees "+want, func() bool { got = upAndDown(t, stats); return got == want })
		}
		want("without routes", "web UP, ssh DOWN, any UP, all DOWN, misspelled DOWN")
		conn := lab.Send(t, "127.0.0.1:1001", []byte("hello"))
		defer conn.Close()
		behind := plain.Next(t)
		wantRead(t, behind, "hello")
		expectHealthcheck(t, 0, "ready, degraded: :2002 (return_path: 127.0.0.1:3002: ")
		expectHealthcheck(t, 0, "ready\n", "--forward", ":2001")
		expectHealthcheck(t, 1, "not ready: return_path: 127.0.0.1:3002: ", "--forward", ":2002")
		expectHealthcheck(t, 1, "not ready: return_path: 127.0.0.1:3002: ", "--all")
		expectHealthcheck(t, 1, `unknown forward ":2003"; known: :2001, :2002`, "--forward", ":2003")

		routes(t, "apply", flags)
		want("with routes", "web UP, ssh UP, any UP, all UP, misspelled DOWN")
		expectHealthcheck(t, 0, "ready\n", "--all")
		behind.Close()
		conn.Close()
		for name, s := range haproxyStats(t, stats) {
			if (name == "web/s" || name == "any/s") && (s["chkdown"] != "0" || s["chkfail"] != "0") {
				t.Errorf("%s: %s checks failed, %s times down", name, s["chkfail"], s["chkdown"])
			}
		}
	})
}

// expectHealthcheck runs "unproxy healthcheck".
func expectHealthcheck(t *testing.T, code int, want string, flags ...string) {
	t.Helper()
	out, got := lab.RunGateway(t, append([]string{"healthcheck", "--admin", adminAt}, flags...)...)
	if got != code || !strings.Contains(strings.TrimSpace(out)+"\n", want) {
		t.Errorf("healthcheck %q: exit code %d, want %d: %s, want %q", flags, got, code, out, want)
	}
}

// readyzCode returns the status of /readyz with a query.
func readyzCode(t *testing.T, query string) int {
	t.Helper()
	code, _ := adminGet(t, adminAt, "/readyz"+query)
	return code
}

// upAndDown returns the states of HAProxy's servers.
func upAndDown(t *testing.T, socket string) string {
	t.Helper()
	all := haproxyStats(t, socket)
	var words []string
	for _, name := range []string{"web", "ssh", "any", "all", "misspelled"} {
		words = append(words, name+" "+all[name+"/s"]["status"])
	}
	return strings.Join(words, ", ")
}

// Whatever takes the return path away, and whatever brings it back, is noticed without
// waiting for the interval, for each family; the other forward stays ready.
func TestReadinessFollowsRoutes(t *testing.T) {
	for _, tt := range []struct{ name, lost, broken string }{
		{"IPv4 rule", "while ip rule delete pref 7700 2>/dev/null; do :; done", ":2004"},
		{"IPv4 routes", "ip route flush table 7700", ":2004"},
		{"IPv6 rule", "while ip -6 rule delete pref 7700 2>/dev/null; do :; done", ":2006"},
		{"IPv6 routes", "ip -6 route flush table 7700", ":2006"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Listen(t, "127.0.0.1:3004")
				lab.Listen(t, "[::1]:3006")
				flags := []string{"--trust", "127.0.0.1", "--transparent",
					"--forward", ":2004=127.0.0.1:3004", "--forward", ":2006=[::1]:3006"}
				routes(t, "apply", flags)
				lab.StartGateway(t, append(flags, "--admin", adminAt, "--self-test-interval", mostRare)...)
				degraded := func(want string) {
					t.Helper()
					await.Until(t, "degraded: "+want, func() bool { return degradedForwards(t) == want })
				}
				await.Until(t, "everything is ready", func() bool { return readyzCode(t, "?all=1") == http.StatusOK })
				for range 2 {
					lab.Shell(t, tt.lost)
					degraded(tt.broken)
					if readyzCode(t, "?forward="+tt.broken) != http.StatusServiceUnavailable || readyzCode(t, "") != http.StatusOK {
						t.Error("a part that is broken is not what is not ready")
					}
					routes(t, "apply", flags)
					degraded("")
				}
			})
		})
	}
}

// degradedForwards returns the forwards that /readyz calls degraded.
func degradedForwards(t *testing.T) string {
	t.Helper()
	_, body := adminGet(t, adminAt, "/readyz")
	var answer struct{ Degraded []struct{ Forward string } }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	var names []string
	for _, f := range answer.Degraded {
		names = append(names, f.Forward)
	}
	return strings.Join(names, " ")
}
