package transparent

import (
	"fmt"
	"net/netip"
)

// Addresses is a set of addresses. Implementations must be safe for concurrent
// use and must not allocate: [Policy.Choose] queries it for each connection.
type Addresses interface {
	// Contains reports whether a is in the set. a is never IPv4-mapped.
	Contains(a netip.Addr) bool
}

// SourcePort selects the source port of a transparent connection.
type SourcePort uint8

// The values of [SourcePort].
const (
	// Prefer uses the client's port, or another one if it is unavailable.
	Prefer SourcePort = iota
	// Keep uses the client's port only.
	Keep
	// Any lets the kernel choose the port.
	Any
)

var sourcePorts = [...]string{Prefer: "prefer", Keep: "keep", Any: "any"}

// String returns the value of the flag --source-port.
func (s SourcePort) String() string { return word(sourcePorts[:], uint8(s)) }

// FamilyMismatch selects what happens when client and backend have different
// address families: a socket cannot have both.
type FamilyMismatch uint8

// The values of [FamilyMismatch].
const (
	// Reject rejects the connection.
	Reject FamilyMismatch = iota
	// Plain connects from the gateway's own address.
	Plain
	// Map connects from a stand-in address of the backend's family; see
	// [Policy.StandIn].
	Map
	// Carry sends the client's address as it is, in a TCP option, which has either
	// family. It is only for connections that do not come from the client's address.
	Carry
)

var familyMismatches = [...]string{Reject: "reject", Plain: "plain", Map: "map", Carry: "carry"}

// String returns the value of the flag --family-mismatch.
func (f FamilyMismatch) String() string { return word(familyMismatches[:], uint8(f)) }

func word(words []string, i uint8) string {
	if int(i) < len(words) {
		return words[i]
	}
	return fmt.Sprintf("invalid(%d)", i)
}

// Rejection says why [Policy.Choose] found no source.
type Rejection uint8

// The values of [Rejection].
const (
	// None: the connection may be made.
	None Rejection = iota
	// SourceDenied: a header must not name this client.
	SourceDenied
	// FamilyMismatched: client and backend have different address families and
	// the policy is [Reject].
	FamilyMismatched
)

// Policy decides the source address of connections to backends. The zero value
// prefers the client's port, rejects mismatched families, allows no denied source
// and knows no address of the gateway. It is safe for concurrent use while no
// goroutine modifies it.
type Policy struct {
	SourcePort     SourcePort
	FamilyMismatch FamilyMismatch
	// MapPrefix is the range of stand-ins for IPv4 clients, a prefix of IPv6 with 96
	// bits; see [CheckMapPrefix]. The zero value is 64:ff9b::/96 (RFC 6052).
	MapPrefix netip.Prefix
	// Allow contains sources to accept although they are denied by default, except
	// those that the kernel does not connect from: unspecified, multicast and
	// broadcast addresses. It may be nil.
	Allow Addresses
	// Own contains the gateway's own addresses; see [OwnAddresses]. It may be
	// nil.
	Own Addresses
	// Replaced contains the addresses that the kernel does not connect from; see
	// [OwnAddresses.Replaced]. Allow does not apply to them. It may be nil.
	Replaced Addresses
}

// Choice is the result of [Policy.Choose]. If neither Transparent nor Rejection
// is set, the connection is made from the gateway's own address.
type Choice struct {
	// Source is the address that the backend sees, to bind the socket to. It has
	// the backend's family, unless the policy is [Carry], and is never IPv4-mapped;
	// port 0 lets the kernel choose the port. It is the zero AddrPort if Transparent
	// is false.
	Source netip.AddrPort
	// Transparent says that the connection is made from Source.
	Transparent bool
	// Mapped says that Source is a stand-in for the client's address.
	Mapped bool
	// Rejection says why the connection must not be made; [None] if it may.
	Rejection Rejection
	// Reason details a rejection: the class of a denied source, such as
	// "loopback", or the two families. It is one of a fixed set of strings.
	Reason string
}

// Choose decides from which address to connect to backend on behalf of client. It
// unmaps both. It is a pure function, safe for concurrent use, and does not
// allocate.
//
// A denied client is rejected even if the connection would not be transparent. An
// invalid backend address matches no family.
func (p *Policy) Choose(client, backend netip.AddrPort) Choice {
	from, to := client.Addr().Unmap(), backend.Addr().Unmap()
	if reason := p.denied(from, to); reason != "" {
		return Choice{Rejection: SourceDenied, Reason: reason}
	}
	port := client.Port()
	if p.SourcePort == Any {
		port = 0
	}
	if to.IsValid() && from.Is4() == to.Is4() {
		if from.Is6() && scoped(from) {
			return Choice{Rejection: SourceDenied, Reason: "needs an interface"}
		}
		if port == backend.Port() && from == to { // even if Allow contains it: it would connect to itself
			return Choice{Rejection: SourceDenied, Reason: "the backend's own address and port"}
		}
		return Choice{Source: netip.AddrPortFrom(from, port), Transparent: true}
	}
	switch {
	case p.FamilyMismatch == Plain:
		return Choice{}
	case p.FamilyMismatch == Carry && to.IsValid():
		return Choice{Source: netip.AddrPortFrom(from, port), Transparent: true}
	case p.FamilyMismatch != Map || !to.IsValid():
		return Choice{Rejection: FamilyMismatched, Reason: mismatch(from, to)}
	}
	standIn := p.StandIn(from)
	if reason := p.taken(standIn, to); reason != "" {
		return Choice{Rejection: SourceDenied, Reason: reason}
	}
	return Choice{Source: netip.AddrPortFrom(standIn, port), Transparent: true, Mapped: true}
}

func mismatch(client, backend netip.Addr) string {
	switch {
	case !backend.IsValid():
		return "the backend has no IP address"
	case client.Is4():
		return "IPv4 client, IPv6 backend"
	}
	return "IPv6 client, IPv4 backend"
}
