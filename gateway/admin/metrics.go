package admin

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"unproxy/gateway/ban"
	"unproxy/gateway/config"
	"unproxy/gateway/engine"
	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
)

// maxScrapes is how many scrapes run at a time. A further one waits.
const maxScrapes = 2

// registry returns the metrics of an endpoint: the gateway's own, and those of the
// Go runtime and the process.
func (s *Server) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	process := collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	r.MustRegister(collector{s}, collectors.NewGoCollector(), process)
	return r
}

// metrics returns the handler of GET /metrics. A client that is slow to read does not
// keep it from others.
func (s *Server) metrics() http.Handler {
	scrape := promhttp.HandlerFor(s.registry(), promhttp.HandlerOpts{EnableOpenMetrics: true})
	running := make(chan struct{}, maxScrapes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := loopContext(r.Context())
		defer cancel()
		select {
		case running <- struct{}{}:
		case <-ctx.Done():
			writeError(w, http.StatusServiceUnavailable, "other scrapes did not finish in time")
			return
		}
		answer := buffer{ResponseWriter: w, code: http.StatusOK}
		scrape.ServeHTTP(&answer, r)
		<-running
		answer.send()
	})
}

// metric describes a metric; name is without the prefix "unproxy_".
func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("unproxy_"+name, help, labels, nil)
}

// The metrics. Labels hold forwards and their backends, but never addresses of peers
// and clients: strangers choose those, and their number is unlimited.
var (
	descBuildInfo = metric("build_info", "The program's version; always 1.", "version", "revision", "goversion")
	descReady     = metric("ready", "1 if the gateway is ready for new connections, as /readyz says, else 0.")
	descForward   = metric("forward_ready",
		"1 if the forward is ready for new connections, as /readyz?forward= says, else 0.", "forward")
	descDraining = metric("draining", "1 while the gateway drains, else 0.")

	descAccepted = metric("connections_accepted_total", "Connections accepted.", "forward")
	descActive   = metric("connections_active", "Open connections.", "forward")
	descClosed   = metric("connections_closed_total",
		"Closed connections, by outcome and by the phase in which they ended.", "forward", "outcome", "phase")
	descLocal = metric("local_connections_closed_total",
		"Closed connections and flows with a LOCAL header, such as health checks. connections_closed_total counts them, too.",
		"forward", "outcome")
	descLimit = metric("connections_limit",
		"Open connections of all forwards at which new ones wait in the kernel's queue; 0 is no limit.")
	descWaiting = metric("connections_waiting", "Connections that wait for their header, see --max-waiting.")
	descPerLoop = metric("loop_connections", "Open connections of an event loop.", "loop")
	descHeaders = metric("headers_total",
		"Complete PROXY headers; only the last of stacked headers counts.", "forward", "version", "command")
	descBytes = metric("transferred_bytes_total",
		"Payload forwarded, without headers; in: from client to backend, out: from backend to client.",
		"forward", "direction")
	descFallbacks = metric("source_port_fallbacks_total",
		"Transparent connections from a port other than the client's.", "forward")

	descHeaderTime  = metric("header_duration_seconds", "Time from accept to the last byte of the header.", "forward")
	descConnectTime = metric("backend_connect_duration_seconds",
		"Time from the header until the backend accepted.", "forward")
	descDuration = metric("connection_duration_seconds",
		"Time from accept to the end of the connection.", "forward")

	descBackendUp = metric("backend_up",
		"1 if the last connection to a backend or check of it succeeded or there was none yet, else 0.",
		"forward", "backend")
	descBackendsDown = metric("backends_down", "Backends to which the last connection or check failed.", "forward")

	descTransparent = metric("transparent", "1 if backends see the client's address, else 0.", "forward")
	descTOA         = metric("toa", "1 if clients' addresses are sent in a TCP option, else 0.", "forward")
	descTrustRules  = metric("trust_rules", "Rules that say which peers are trusted.", "forward")
	descClientRules = metric("client_rules", "Rules that say which clients are served.", "forward", "action")
	descReloads     = metric("trust_reloads_total",
		"Reloads of the address lists; after a failure the previous lists stay in force.", "result")
	descReloaded = metric("trust_last_reload_success_timestamp_seconds",
		"Unix time of the last successful reload; 0 if there was none.")
	descBans     = metric("bans", "Clients and prefixes that are banned.")
	descBanLimit = metric("bans_limit", "Bans that there can be.")
	descBanHits  = metric("bans_refused_total",
		"Connections and UDP flows of banned clients that were refused.")
	descBanFailures = metric("ban_file_failures_total", "Writes of the ban file that failed.")

	descLinesDropped = metric("log_lines_dropped_total",
		"Log lines lost because the writer was too slow or failed.")
)

// collector reads the gateway's counters when it is scraped.
type collector struct{ *Server }

// Describe implements [prometheus.Collector].
func (collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBuildInfo, descReady, descForward, descDraining,
		descAccepted, descActive, descClosed, descLocal, descLimit, descWaiting,
		descPerLoop, descHeaders, descBytes, descFallbacks,
		descHeaderTime, descConnectTime, descDuration, descBackendUp, descBackendsDown,
		descBlocked, descHalfClosed, descIdle, descBuffered, descBufferLimit, descPiped, descPipes, descPipeLimit,
		descTransparent, descTOA, descTrustRules, descClientRules, descReloads, descReloaded, descLinesDropped,
		descBans, descBanLimit, descBanHits, descBanFailures,
		descFlows, descFlowsOpened, descFlowsEvicted, descFlowsLimit,
		descDatagrams, descDatagramBytes, descDropped, descUDPFallbacks,
	} {
		to <- d
	}
}

// Collect implements [prometheus.Collector]. The metrics of connections are absent
// until a gateway is attached. If an event loop does not answer, the scrape fails,
// and Prometheus shows the target as down.
func (c collector) Collect(to chan<- prometheus.Metric) {
	e := emitter(to)
	v := c.config.Version
	e.gauge(descBuildInfo, 1, v.Version, v.Revision, v.Go)
	report := c.report()
	e.gauge(descReady, zeroOrOne(len(report.None()) == 0))
	e.gauge(descDraining, zeroOrOne(isDraining(report.Reasons)))
	if c.config.LogDropped != nil {
		e.counter(descLinesDropped, c.config.LogDropped())
	}
	g := c.gateway()
	if g == nil {
		return
	}
	c.collectForwards(e)
	c.collectReadiness(e, report)
	e.backends(g.Backends())
	if c.hasDatagrams() {
		datagrams := g.Datagrams()
		e.datagrams(&datagrams, c.config.Gateway.MaxFlows)
	}
	collectReloads(e, g.Reloads())
	collectBans(e, g.Bans())
	counters := g.Counters()
	e.gauge(descWaiting, float64(counters.Waiting))
	for i, n := range counters.PerLoop {
		e.gauge(descPerLoop, float64(n), strconv.Itoa(i))
	}
	ctx, cancel := loopContext(context.Background())
	defer cancel()
	tallies, err := g.Tallies(ctx)
	if err != nil {
		to <- prometheus.NewInvalidMetric(descAccepted, err)
		return
	}
	held, err := g.Holdings(ctx)
	if err != nil {
		to <- prometheus.NewInvalidMetric(descBlocked, err)
		return
	}
	e.holdings(holdingsStatus(held, &counters, c.config.Gateway))
	for _, t := range byName(tallies) {
		e.tally(t)
	}
}

// maxBackends is how many backends of a forward have a series of their own.
const maxBackends = 32

// backends emits the state of the backends. Forwards of the same name may have the same
// backend: it is up if both say so.
func (e emitter) backends(all []engine.BackendState) {
	type series struct{ forward, backend string }
	up, down, listed := map[series]bool{}, map[string]int{}, map[string]int{}
	for _, b := range all {
		key := series{label(b.Forward), label(b.Backend)}
		down[key.forward] += 1 - int(zeroOrOne(b.Up)) // 0 makes a series, too
		before, known := up[key]
		if !known {
			if listed[key.forward]++; listed[key.forward] > maxBackends {
				continue
			}
		}
		up[key] = b.Up && (before || !known)
	}
	for key, isUp := range up {
		e.gauge(descBackendUp, zeroOrOne(isUp), key.forward, key.backend)
	}
	for name, n := range down {
		e.gauge(descBackendsDown, float64(n), name)
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

func collectBans(e emitter, l *ban.List) {
	e.gauge(descBans, float64(l.Len()))
	e.gauge(descBanLimit, ban.Most)
	e.counter(descBanHits, l.Hits())
	e.counter(descBanFailures, l.SaveFailures())
}

// collectForwards emits the metrics that depend on the configuration alone.
func (c collector) collectForwards(e emitter) {
	e.gauge(descLimit, float64(c.config.Gateway.MaxConnections))
	seen := map[string]bool{}
	for _, f := range c.config.Gateway.Forwards {
		name := label(f.Label())
		if seen[name] {
			continue
		}
		seen[name] = true
		e.gauge(descTransparent, zeroOrOne(f.Transparent), name)
		e.gauge(descTOA, zeroOrOne(f.TOA.On), name)
		e.gauge(descTrustRules, float64(config.CountRules(f.Trust)), name)
		e.gauge(descClientRules, float64(config.CountRules(f.AllowClient)), name, "allow")
		e.gauge(descClientRules, float64(config.CountRules(f.DenyClient)), name, "deny")
	}
}

// collectReadiness emits the readiness of each forward. Forwards with the same name
// are ready if all are.
func (c collector) collectReadiness(e emitter, r readiness.Report) {
	ready := map[string]bool{}
	for i, f := range c.config.Gateway.Forwards {
		name := label(f.Label())
		before, seen := ready[name]
		ready[name] = r.Ready(i) && (before || !seen)
	}
	for name, isReady := range ready {
		e.gauge(descForward, zeroOrOne(isReady), name)
	}
}

// byName merges the tallies of forwards with the same name, for example of two that
// listen on port 0. The order is that of the first of each name. It modifies all.
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

// label returns a name as the value of a label, which must be valid UTF-8.
func label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

func isDraining(reasons []readiness.Reason) bool {
	return slices.ContainsFunc(reasons, func(r readiness.Reason) bool { return r.Word == readiness.Draining })
}

// zeroOrOne returns the value of a gauge for a condition.
func zeroOrOne(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// emitter sends the metrics of one scrape.
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

// tally emits the counters of a forward. Every possible pair of outcome and phase
// has a series from the start, because a rate over a series that appears with its
// first event misses that event.
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
	for _, o := range record.Outcomes() { // all, so that rates can be subtracted from those of descClosed
		e.counter(descLocal, t.Local[o], t.Name, o.String())
	}
	for kind := range record.NumHeaderKinds {
		e.counter(descHeaders, t.Headers[kind], t.Name, kind.Version(), kind.Command().String())
	}
	e.counter(descBytes, t.Bytes[record.In], t.Name, "in")
	e.counter(descBytes, t.Bytes[record.Out], t.Name, "out")
	e.counter(descFallbacks, t.PortFallbacks, t.Name)
	e.histogram(descHeaderTime, &t.HeaderTime, record.ShortBounds(), t.Name)
	e.histogram(descConnectTime, &t.ConnectTime, record.ShortBounds(), t.Name)
	e.histogram(descDuration, &t.Duration, record.LongBounds(), t.Name)
}
