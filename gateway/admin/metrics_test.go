package admin

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
)

// scrape gets the metrics of an endpoint.
func scrape(s *Server) (code int, text string) {
	w := ask(s, "GET", "/metrics")
	return w.Code, w.Body.String()
}

// Names and help texts follow Prometheus's naming guide, which promlint checks.
func TestMetricsLint(t *testing.T) {
	s, _ := busy()
	problems, err := testutil.GatherAndLint(s.registry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "unproxy_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestMetrics(t *testing.T) {
	s, _ := busy()
	code, text := scrape(s)
	if code != http.StatusOK {
		t.Fatal(code, text)
	}
	for _, line := range []string{
		`unproxy_build_info{goversion="go1.26",revision="abc",version="v1.2.3"} 1`,
		`unproxy_ready 1`,
		`unproxy_draining 0`,
		`unproxy_log_lines_dropped_total 7`,
		`unproxy_connections_limit 100`,
		`unproxy_loop_connections{loop="0"} 2`,
		`unproxy_loop_connections{loop="1"} 1`,
		`unproxy_connections_accepted_total{forward=":8443"} 10`,
		`unproxy_connections_accepted_total{forward="127.0.0.1:0"} 50`, // two forwards
		`unproxy_connections_active{forward="127.0.0.1:0"} 2`,
		`unproxy_connections_closed_total{forward=":8443",outcome="ok",phase="relay"} 1`,
		`unproxy_connections_closed_total{forward=":8443",outcome="not_proxy",phase="header"} 0`,
		`unproxy_headers_total{command="local",forward=":8443",version="2"} 4`,
		`unproxy_transferred_bytes_total{direction="in",forward=":8443"} 1000`,
		`unproxy_transferred_bytes_total{direction="out",forward=":8443"} 2000`,
		`unproxy_source_port_fallbacks_total{forward=":8443"} 5`,
		`unproxy_header_duration_seconds_bucket{forward=":8443",le="0.0001"} 3`,
		`unproxy_header_duration_seconds_bucket{forward=":8443",le="5"} 3`,
		`unproxy_header_duration_seconds_bucket{forward=":8443",le="+Inf"} 4`,
		`unproxy_header_duration_seconds_sum{forward=":8443"} 60.5`,
		`unproxy_header_duration_seconds_count{forward=":8443"} 4`,
		`unproxy_connection_duration_seconds_bucket{forward=":8443",le="0.5"} 0`,
		`unproxy_connection_duration_seconds_bucket{forward=":8443",le="1"} 2`,
		`unproxy_connection_duration_seconds_bucket{forward="127.0.0.1:0",le="+Inf"} 4`,
		`unproxy_transparent{forward=":8443"} 1`,
		`unproxy_transparent{forward="127.0.0.1:0"} 0`,
		`unproxy_trust_rules{forward=":8443"} 2`,
		`unproxy_trust_reloads_total{result="success"} 4`,
		`unproxy_trust_reloads_total{result="failure"} 2`,
		`unproxy_trust_last_reload_success_timestamp_seconds 1000`,
		`unproxy_connections_waiting 1`,
		`unproxy_connections_blocked 2`,
		`unproxy_connections_half_closed 1`,
		`unproxy_connections_idle 3`,
		`unproxy_buffered_bytes 4096`,
		`unproxy_buffered_limit_bytes 1.048576e+06`,
		`unproxy_piped_bytes 70000`,
		`unproxy_pipes_open 5`,
		`unproxy_pipes_limit 64`,
		`unproxy_client_rules{action="deny",forward=":8443"} 2`,
		`unproxy_client_rules{action="allow",forward=":8443"} 0`,
		`unproxy_bans 0`,
		`unproxy_bans_limit 65536`,
		`unproxy_bans_refused_total 0`,
		`unproxy_ban_file_failures_total 0`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if !strings.Contains(text, "\ngo_goroutines ") || !strings.Contains(text, "\nprocess_open_fds ") {
		t.Error("the metrics of the Go runtime or of the process are missing")
	}
}

// Every possible outcome has a series from the start.
func TestSeriesOfAllOutcomes(t *testing.T) {
	s, _ := busy()
	_, text := scrape(s)
	for _, o := range record.Outcomes() {
		found := false
		for p := range record.NumPhases {
			phase := record.Phase(p)
			series := fmt.Sprintf(`unproxy_connections_closed_total{forward=":8443",outcome="%v",phase="%v"} `, o, phase)
			has := strings.Contains(text, series)
			found = found || has
			if has != o.Possible(phase) {
				t.Errorf("%s: present %v, want %v", series, has, o.Possible(phase))
			}
		}
		if !found {
			t.Errorf("no series for %v", o)
		}
	}
}

// A pair of outcome and phase that the table calls impossible is still counted.
func TestUnexpectedPhase(t *testing.T) {
	if record.Empty.Possible(record.Relay) {
		t.Fatal("the pair is possible")
	}
	s, g := busy()
	g.tallies[0].Closed[record.Empty][record.Relay] = 9
	if _, text := scrape(s); !strings.Contains(text, `{forward=":8443",outcome="empty",phase="relay"} 9`) {
		t.Error("the connections are not counted")
	}
}

func TestMetricsBeforeAttach(t *testing.T) {
	c := quiet()
	c.Readiness.Set(readiness.Starting, "")
	c.Readiness.Set(readiness.Draining, "")
	code, text := scrape(newServer(c, nearby))
	if code != http.StatusOK {
		t.Fatal(code, text)
	}
	for _, line := range []string{"unproxy_ready 0", "unproxy_draining 1"} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// If an event loop is stalled, the scrape fails: without its counters, the totals
// would appear to decrease.
func TestMetricsOfAStalledLoop(t *testing.T) {
	s, g := busy()
	g.err = errors.New("stalled")
	if code, text := scrape(s); code != http.StatusInternalServerError || !strings.Contains(text, "stalled") {
		t.Errorf("%d %.300s", code, text)
	}
}

// A path in a forward's name may hold any bytes, but a label must be UTF-8.
func TestForwardNotUTF8(t *testing.T) {
	s, g := busy()
	g.tallies[0].Name = "unix:/run/\xff"
	if code, text := scrape(s); code != http.StatusOK || !strings.Contains(text, "{forward=\"unix:/run/\uFFFD\"}") {
		t.Errorf("%d %.300s", code, text)
	}
}
