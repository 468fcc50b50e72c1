// Package returnpath plans how the replies of backends reach the gateway in
// transparent mode.
//
// A backend then replies to the client's own address. Without further rules the
// host of the gateway routes such a packet to the client, which resets the
// connection or never receives it. A [Plan] holds the rules, routes and, where
// these are not enough, the packet filter table that deliver these packets, and
// no others, to the gateway.
//
//	Backend ──where is it?──▶ Reach ──which recipe?──▶ Plan ──▶ iproute2, nft, networkd …
//
// The package is pure: it neither reads nor changes the state of the host.
// Package routing locates backends and applies a plan.
package returnpath
