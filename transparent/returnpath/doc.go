// Package returnpath plans how the replies of backends come back to the gateway.
//
// In transparent mode a backend answers the client's own address. Nothing about
// such a packet says that the gateway waits for it: the host would send it on to
// the client, who resets it or never sees it. A [Plan] is the rules and routes,
// and where those are not enough the packet filter, that hand these packets, and
// no others, to the gateway.
//
//	Backend ──where is it?──▶ Reach ──which recipe?──▶ Plan ──▶ iproute2, nft, networkd …
//
// The package is pure: it reads nothing of the host and changes nothing.
// Package routing looks where a backend is, and puts a plan into force.
package returnpath
