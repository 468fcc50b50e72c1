package gateway

import (
	"context"

	"unproxy/gateway/datagram"
)

// HandOverFlows stops receiving datagrams, and passes the UDP flows to the process
// that takes over, which has the copies of [Gateway.Sockets]; see
// [datagram.Relay.HandOver].
func (g *Gateway) HandOverFlows(ctx context.Context, e datagram.Exchange) (*datagram.Handover, error) {
	return g.relay.HandOver(ctx, e)
}

// TakeFlows answers a message of HandOverFlows in the process before this one; see
// [datagram.Relay.Take]. Call it after the start.
func (g *Gateway) TakeFlows(message []byte, fds []int) (answer []byte) {
	return g.relay.Take(message, fds)
}

// ServeFlows continues the flows that were taken, and receives on the sockets of the
// previous process. Call it when that process has stopped using them.
func (g *Gateway) ServeFlows() { g.relay.Serve() }
