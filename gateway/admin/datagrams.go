package admin

import (
	"slices"

	"unproxy/gateway/datagram"
	"unproxy/gateway/forward"
)

// The metrics of UDP, of all forwards together. They are missing where there is
// no forward of UDP.
var (
	descFlows         = metric("udp_flows_active", "UDP flows that have not ended.")
	descFlowsOpened   = metric("udp_flows_total", "UDP flows begun.")
	descFlowsEvicted  = metric("udp_flows_evicted_total", "UDP flows that gave way to newer ones.")
	descFlowsLimit    = metric("udp_flows_limit", "UDP flows at which the one that was silent the longest gives way; 0 is no limit.")
	descDatagrams     = metric("udp_datagrams_total", "Datagrams passed on, in: from client to backend, out: back.", "direction")
	descDatagramBytes = metric("udp_transferred_bytes_total", "Bytes of datagrams passed on, without headers.", "direction")
	descDropped       = metric("udp_datagrams_dropped_total", "Datagrams that did not arrive, by why.", "reason")
	descUDPFallbacks  = metric("udp_source_port_fallbacks_total", "Transparent UDP flows from another port than the client's.")
)

// ofDatagrams reports whether there is anything to tell of UDP.
func (c collector) ofDatagrams() bool {
	return slices.ContainsFunc(c.config.Gateway.Forwards, func(f *forward.Forward) bool { return f.Datagrams })
}

// datagrams emits what was counted of UDP.
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
