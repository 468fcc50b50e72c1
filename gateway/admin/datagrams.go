package admin

import (
	"slices"

	"unproxy/gateway/datagram"
	"unproxy/gateway/forward"
)

// The metrics of UDP, for all UDP forwards together. They are absent if there is no
// UDP forward.
var (
	descFlows        = metric("udp_flows_active", "Open UDP flows.")
	descFlowsOpened  = metric("udp_flows_total", "UDP flows opened.")
	descFlowsEvicted = metric("udp_flows_evicted_total", "UDP flows evicted in favour of newer ones.")
	descFlowsLimit   = metric("udp_flows_limit",
		"UDP flows at which the one that was idle for longest is evicted; 0 is no limit.")
	descDatagrams = metric("udp_datagrams_total",
		"Datagrams forwarded; in: from client to backend, out: from backend to client.", "direction")
	descDatagramBytes = metric("udp_transferred_bytes_total",
		"Payload of forwarded datagrams, without headers.", "direction")
	descDropped      = metric("udp_datagrams_dropped_total", "Datagrams dropped.", "reason")
	descUDPFallbacks = metric("udp_source_port_fallbacks_total",
		"Transparent UDP flows from a port other than the client's.")
)

// hasDatagrams reports whether there is a UDP forward.
func (c collector) hasDatagrams() bool {
	return slices.ContainsFunc(c.config.Gateway.Forwards, func(f *forward.Forward) bool { return f.Datagrams })
}

// datagrams emits the counters of UDP; limit is the maximum number of flows.
func (e emitter) datagrams(c *datagram.Counters, limit int) {
	e.gauge(descFlows, float64(c.Flows))
	e.gauge(descFlowsLimit, float64(limit))
	e.counter(descFlowsOpened, c.Opened)
	e.counter(descFlowsEvicted, c.Evicted)
	e.counter(descDatagrams, c.DatagramsIn, "in")
	e.counter(descDatagrams, c.DatagramsOut, "out")
	e.counter(descDatagramBytes, c.BytesIn, "in")
	e.counter(descDatagramBytes, c.BytesOut, "out")
	e.counter(descUDPFallbacks, c.PortFallbacks)
	for _, d := range datagram.Drops() {
		e.counter(descDropped, c.Dropped[d], d.String())
	}
}
