package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"unproxy/gateway/datagram"
)

// The metrics of UDP are present if there is a UDP forward, with a series for every
// reason from the start, and absent otherwise.
func TestMetricsOfDatagrams(t *testing.T) {
	s, g := busy()
	if _, text := scrape(s); strings.Contains(text, "unproxy_udp_") {
		t.Error("metrics of UDP without a UDP forward")
	}
	s.config.Gateway.Forwards[0].Datagrams, s.config.Gateway.MaxFlows = true, 500
	g.datagrams = datagram.Counters{
		Flows: 3, Opened: 10, Evicted: 2, PortFallbacks: 1,
		DatagramsIn: 100, DatagramsOut: 90, BytesIn: 6400, BytesOut: 5000,
	}
	g.datagrams.Dropped[datagram.NoFlow] = 4
	code, text := scrape(s)
	if code != http.StatusOK {
		t.Fatal(code, text)
	}
	for _, line := range []string{
		`unproxy_udp_flows_active 3`,
		`unproxy_udp_flows_total 10`,
		`unproxy_udp_flows_evicted_total 2`,
		`unproxy_udp_flows_limit 500`,
		`unproxy_udp_datagrams_total{direction="in"} 100`,
		`unproxy_udp_datagrams_total{direction="out"} 90`,
		`unproxy_udp_transferred_bytes_total{direction="in"} 6400`,
		`unproxy_udp_transferred_bytes_total{direction="out"} 5000`,
		`unproxy_udp_source_port_fallbacks_total 1`,
		`unproxy_udp_datagrams_dropped_total{reason="no_flow"} 4`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	for _, d := range datagram.Drops() {
		if !strings.Contains(text, `unproxy_udp_datagrams_dropped_total{reason="`+d.String()+`"} `) {
			t.Errorf("no series of %v", d)
		}
	}
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
