package gateway

import (
	"context"
	"net/netip"

	"unproxy/gateway/ban"
	"unproxy/gateway/clients"
)

// Bans returns the bans, which may change while the gateway runs.
func (g *Gateway) Bans() *ban.List { return g.config.Bans }

// CutClients ends the connections and UDP flows of all clients in a prefix, and returns how
// many. A client's IPv6 address that contains an IPv4 address in a well-known form counts as
// that, too. Call it while the gateway runs. The error is the cause of ctx.
func (g *Gateway) CutClients(ctx context.Context, p netip.Prefix) (cut int, err error) {
	match := clients.Matches(p)
	cut, err = g.engine.CutClients(ctx, match)
	if err != nil {
		return cut, err
	}
	flows, err := g.relay.CutClients(ctx, match)
	return cut + flows, err
}
