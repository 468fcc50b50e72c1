package integration_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// wantMetrics scrapes the gateway until it reports all lines. A connection is counted
// shortly after the other side sees its end.
func wantMetrics(t *testing.T, lines ...string) {
	t.Helper()
	var text string
	var missing []string
	defer func() {
		if t.Failed() {
			t.Logf("without %q:\n%s", missing, text)
		}
	}()
	await.Until(t, "the metrics have the lines", func() bool {
		code, body := adminGet(t, adminAt, "/metrics")
		if code != http.StatusOK {
			t.Fatal(code, body)
		}
		text = "\n" + body
		missing = slices.DeleteFunc(slices.Clone(lines),
			func(line string) bool { return strings.Contains(text, "\n"+line+"\n") })
		return len(missing) == 0
	})
}

// Active and finished connections are counted by forward, not by listener:
//
//	conn, bad, untrusted ──▶ gateway :2000-2009 ──▶ backends :3000-3009
//	                        └ admin :9180 ◀── /metrics
func TestMetrics(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3004")
		lab.StartGateway(t, "--forward", "127.0.0.1:2000-2009=127.0.0.1:3000-3009", "--trust", "127.0.0.1",
			"--admin", adminAt)
		conn := lab.Send(t, "127.0.0.1:2004", lab.V2(client4, dest4), []byte("hello"))
		behind := backend.Next(t)
		wantRead(t, behind, "hello")
		write(t, behind, []byte("welcome"))
		wantRead(t, conn, "welcome")
		const forward = `forward="127.0.0.1:2000-2009"`
		wantMetrics(t,
			`unproxy_ready 1`,
			`unproxy_connections_accepted_total{`+forward+`} 1`,
			`unproxy_connections_active{`+forward+`} 1`,
			`unproxy_transferred_bytes_total{direction="in",`+forward+`} 5`,
			`unproxy_transferred_bytes_total{direction="out",`+forward+`} 7`,
			`unproxy_headers_total{command="proxy",`+forward+`,version="2"} 1`,
			`unproxy_backend_connect_duration_seconds_count{`+forward+`} 1`,
			`unproxy_connection_duration_seconds_count{`+forward+`} 0`,
		)
		conn.Close()
		behind.Close()
		lab.Send(t, "127.0.0.1:2000", []byte("GET / HTTP/1.1\r\n"))
		lab.Send(t, "127.0.0.1:2001", lab.V1(client4, dest4)) // no backend
		netns.IP(t, "address add 127.0.0.2/8 dev lo")
		wantRejected(t, "127.0.0.2", "127.0.0.1:2002", nil)
		closed := func(outcome, phase string) string {
			return fmt.Sprintf("unproxy_connections_closed_total{%s,outcome=%q,phase=%q} 1", forward, outcome, phase)
		}
		wantMetrics(t,
			closed("ok", "relay"), closed("not_proxy", "header"), closed("backend_refused", "dial"),
			closed("untrusted", "trust"),
			`unproxy_connections_accepted_total{`+forward+`} 4`,
			`unproxy_connections_active{`+forward+`} 0`,
			`unproxy_headers_total{command="proxy",`+forward+`,version="1"} 1`,
			`unproxy_connection_duration_seconds_count{`+forward+`} 4`,
		)
	})
}

// docs/metrics.md has a row for each metric, with its type, labels and help text, and no
// others.
func TestMetricsTable(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000",
			"--trust", "127.0.0.1", "--admin", adminAt)
		_, text := adminGet(t, adminAt, "/metrics")
		var existing []string
		for _, help := range regexp.MustCompile(`(?m)^# HELP (unproxy_\w+) (.+)\n# TYPE \w+ (\w+)$`).FindAllStringSubmatch(text, -1) {
			name, meaning, kind := help[1], help[2], help[3]
			existing = append(existing, fmt.Sprintf("| `%s` | %s |%s | %s |", name, kind, labelsOf(text, name), meaning))
		}
		documented := regexp.MustCompile("(?m)^\\| `unproxy_.*$").FindAllString(string(readFile(t, "../docs/metrics.md")), -1)
		slices.Sort(existing)
		slices.Sort(documented)
		if len(existing) < 15 || !slices.Equal(documented, existing) {
			t.Errorf("docs/metrics.md has\n%s\nand the gateway\n%s", strings.Join(documented, "\n"),
				strings.Join(existing, "\n"))
		}
	})
}

// labelsOf returns the labels of a metric in the form and order of the document.
func labelsOf(text, name string) (labels string) {
	line := regexp.MustCompile(`(?m)^` + name + `(?:_count)?\{(.*)\} `).FindStringSubmatch(text)
	if line == nil {
		return ""
	}
	var all []string
	for _, m := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(line[1], -1) {
		all = append(all, m[1])
	}
	order := []string{"version", "revision", "goversion", "forward", "outcome", "phase", "command", "direction", "loop"}
	if slices.Contains(all, "forward") {
		order = []string{"forward", "backend", "action", "version", "outcome", "phase", "command", "direction"}
	}
	slices.SortFunc(all, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	for _, l := range all {
		labels += " `" + l + "`"
	}
	return labels
}
