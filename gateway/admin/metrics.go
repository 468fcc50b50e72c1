package admin

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"unproxy/gateway/config"
	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
)

// registry returns the metrics of an endpoint: the gateway's own, and those
// that every Go program and process has.
func (s *Server) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// metrics answers a scrape. Two at once are enough; a third waits for neither.
func (s *Server) metrics() http.Handler {
	return promhttp.HandlerFor(s.registry(), promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 2,
	})
}

// metric describes one metric; its name goes without the prefix.
func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("unproxy_"+name, help, labels, nil)
}

// The metrics. Connections are counted by forward, never by address: addresses
// are chosen by strangers, and there is no end of them.
var (
	descBuildInfo = metric("build_info", "Which program this is; always 1.", "version", "revision", "goversion")
	descReady     = metric("ready", "Whether new connections are welcome: what /readyz says.")
	descDraining  = metric("draining", "Whether the gateway was told to stop and lets connections finish.")

	descAccepted  = metric("connections_accepted_total", "Connections accepted.", "forward")
	descActive    = metric("connections_active", "Connections that have not ended.", "forward")
	descClosed    = metric("connections_closed_total", "Connections that ended, by how and in which phase.", "forward", "outcome", "phase")
	descLimit     = metric("connections_limit", "Connections, of all forwards together, at which new ones wait in the kernel's queue; 0 is no limit.")
	descWaiting   = metric("connections_waiting", "Connections that wait for their header, see --max-waiting.")
	descPerLoop   = metric("loop_connections", "Connections that an event loop serves.", "loop")
	descHeaders   = metric("headers_total", "Whole PROXY headers that were read; of stacked ones the last.", "forward", "version", "command")
	descBytes     = metric("transferred_bytes_total", "Bytes relayed without headers, in: from client to backend, out: back.", "forward", "direction")
	descFallbacks = metric("source_port_fallbacks_total", "Transparent connections made from another port than the client's.", "forward")

	descHeaderTime  = metric("header_duration_seconds", "Time from accept to the header's last byte.", "forward")
	descConnectTime = metric("backend_connect_duration_seconds", "Time from the header to the backend's acceptance.", "forward")
	descDuration    = metric("connection_duration_seconds", "Time from accept to the end of a connection.", "forward")

	descTransparent  = metric("transparent", "Whether backends see the client's address.", "forward")
	descTrustRules   = metric("trust_rules", "Rules that say which peers may name a client.", "forward")
	descReloads      = metric("trust_reloads_total", "Times that the lists of addresses were read anew; after a failure the old ones stay.", "result")
	descReloaded     = metric("trust_last_reload_success_timestamp_seconds", "When that succeeded last; 0 is never.")
	descLinesDropped = metric("log_lines_dropped_total", "Lines of the log that were lost because the writer was too slow or failed.")
)

// collector reads the gateway when it is scraped.
type collector struct{ *Server }

// Describe describes all metrics.
func (collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBuildInfo, descReady, descDraining, descAccepted, descActive, descClosed, descLimit, descPerLoop, descHeaders, descBytes, descFallbacks,
		descHeaderTime, descConnectTime, descDuration, descTransparent, descTrustRules, descReloads, descReloaded, descWaiting, descLinesDropped,
		descFlows, descFlowsOpened, descFlowsEvicted, descFlowsLimit, descDatagrams, descDatagramBytes, descDropped, descUDPFallbacks,
	} {
		to <- d
	}
}

// Collect reads all metrics. Those of connections are missing until there is a
// gateway. A loop that does not answer makes the scrape fail, which Prometheus
// shows as a target that is down.
func (c collector) Collect(to chan<- prometheus.Metric) {
	e := emitter(to)
	v := c.config.Version
	e.gauge(descBuildInfo, 1, v.Version, v.Revision, v.Go)
	reasons := c.config.Readiness.Reasons()
	e.gauge(descReady, truth(len(reasons) == 0))
	e.gauge(descDraining, truth(isDraining(reasons)))
	if c.config.LogDropped != nil {
		e.counter(descLinesDropped, c.config.LogDropped())
	}
	g := c.gateway()
	if g == nil {
		return
	}
	c.collectForwards(e)
	if c.ofDatagrams() {
		counted := g.Datagrams()
		e.datagrams(&counted, c.config.Gateway.MaxFlows)
	}
	collectReloads(e, g.Reloads())
	counters := g.Counters()
	e.gauge(descWaiting, float64(counters.Waiting))
	for i, n := range counters.PerLoop {
		e.gauge(descPerLoop, float64(n), strconv.Itoa(i))
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), askTime, errStuck)
	defer cancel()
	tallies, err := g.Tallies(ctx)
	if err != nil {
		to <- prometheus.NewInvalidMetric(descAccepted, err)
		return
	}
	for _, t := range byName(tallies) {
		e.tally(t)
	}
}

func collectReloads(e emitter, r config.ReloadState) {
	e.counter(descReloads, r.Succeeded, "success")
	e.counter(descReloads, r.Failed, "failure")
	last := 0.0
	if !r.LastSuccess.IsZero() {
		last = float64(r.LastSuccess.UnixMilli()) / 1000
	}
	e.gauge(descReloaded, last)
}

// collectForwards emits what the configuration says.
func (c collector) collectForwards(e emitter) {
	e.gauge(descLimit, float64(c.config.Gateway.MaxConnections))
	seen := map[string]bool{}
	for _, f := range c.config.Gateway.Forwards {
		name := label(f.Label())
		if seen[name] {
			continue
		}
		seen[name] = true
		e.gauge(descTransparent, truth(f.Transparent), name)
		e.gauge(descTrustRules, float64(len(rulesOf(f))), name)
	}
}

// byName adds the tallies of forwards that have the same name together: two of
// them that listen on port 0, say. The order is that of the first ones.
func byName(all []record.ForwardTally) []*record.ForwardTally {
	var merged []*record.ForwardTally
	index := map[string]*record.ForwardTally{}
	for i := range all {
		t := &all[i]
		t.Name = label(t.Name)
		if first := index[t.Name]; first != nil {
			first.Active += t.Active
			first.Add(&t.Tally)
			continue
		}
		index[t.Name] = t
		merged = append(merged, t)
	}
	return merged
}

// label makes a name fit to be a label's value, which must be UTF-8.
func label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

func isDraining(reasons []readiness.Reason) bool {
	for _, r := range reasons {
		if r.Word == readiness.Draining {
			return true
		}
	}
	return false
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// emitter takes metrics.
type emitter chan<- prometheus.Metric

func (e emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emitter) counter(d *prometheus.Desc, n uint64, labels ...string) {
	e <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (e emitter) histogram(d *prometheus.Desc, h *record.Histogram, bounds []time.Duration, labels ...string) {
	buckets := make(map[float64]uint64, len(bounds))
	count := uint64(0)
	for i, n := range h.Counts {
		count += n
		if i < len(bounds) {
			buckets[bounds[i].Seconds()] = count
		}
	}
	e <- prometheus.MustNewConstHistogram(d, count, h.Seconds, buckets, labels...)
}

// tally emits what was counted of a forward. Every outcome is there from the
// start, in the phases in which it is possible: a rate over a series that
// appears with its first event misses that event.
func (e emitter) tally(t *record.ForwardTally) {
	e.counter(descAccepted, t.Accepted, t.Name)
	e.gauge(descActive, float64(t.Active), t.Name)
	for _, o := range record.Outcomes() {
		for p := range record.NumPhases {
			phase := record.Phase(p)
			if n := t.Closed[o][p]; n > 0 || o.Possible(phase) {
				e.counter(descClosed, n, t.Name, o.String(), phase.String())
			}
		}
	}
	for kind := range record.NumHeaderKinds {
		e.counter(descHeaders, t.Headers[kind], t.Name, kind.Version(), kind.Command())
	}
	e.counter(descBytes, t.Bytes[record.In], t.Name, "in")
	e.counter(descBytes, t.Bytes[record.Out], t.Name, "out")
	e.counter(descFallbacks, t.PortFallbacks, t.Name)
	e.histogram(descHeaderTime, &t.HeaderTime, record.ShortBounds(), t.Name)
	e.histogram(descConnectTime, &t.ConnectTime, record.ShortBounds(), t.Name)
	e.histogram(descDuration, &t.Duration, record.LongBounds(), t.Name)
}
