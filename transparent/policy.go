package transparent

import (
	"fmt"
	"net/netip"
	"strings"
)

// Addresses is a set of addresses. It must be safe for concurrent use and must
// not allocate: it is asked for every connection.
type Addresses interface {
	// Contains reports whether a is in the set. a is never a 4-in-6 address.
	Contains(a netip.Addr) bool
}

// SourcePort says from which port a transparent connection is made.
type SourcePort uint8

// The choices of source port.
const (
	// Prefer takes the client's port, or another one where it cannot be had.
	Prefer SourcePort = iota
	// Keep takes the client's port and no other.
	Keep
	// Any leaves the port to the kernel.
	Any
)

var sourcePorts = [...]string{Prefer: "prefer", Keep: "keep", Any: "any"}

// String returns the word of the flag --source-port.
func (s SourcePort) String() string { return word(sourcePorts[:], uint8(s)) }

// ParseSourcePort is the inverse of [SourcePort.String].
func ParseSourcePort(s string) (SourcePort, error) {
	i, err := parseWord(sourcePorts[:], "source port", s)
	return SourcePort(i), err
}

// FamilyMismatch says what becomes of an IPv4 client of an IPv6 backend, and
// the other way round: no socket can have both addresses.
type FamilyMismatch uint8

// The ways to deal with a mismatch.
const (
	// Reject refuses the connection.
	Reject FamilyMismatch = iota
	// Plain connects from the gateway's own address.
	Plain
	// Map connects from a stand-in of the backend's family; see [StandIn].
	Map
)

var familyMismatches = [...]string{Reject: "reject", Plain: "plain", Map: "map"}

// String returns the word of the flag --family-mismatch.
func (f FamilyMismatch) String() string { return word(familyMismatches[:], uint8(f)) }

// ParseFamilyMismatch is the inverse of [FamilyMismatch.String].
func ParseFamilyMismatch(s string) (FamilyMismatch, error) {
	i, err := parseWord(familyMismatches[:], "family mismatch", s)
	return FamilyMismatch(i), err
}

func word(words []string, i uint8) string {
	if int(i) < len(words) {
		return words[i]
	}
	return fmt.Sprintf("invalid(%d)", i)
}

func parseWord(words []string, what, s string) (int, error) {
	for i, w := range words {
		if w == s {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%s %.40q is none of %s", what, s, strings.Join(words, ", "))
}

// Refusal is why no source could be chosen.
type Refusal uint8

// The refusals.
const (
	// None: there is a choice.
	None Refusal = iota
	// SourceDenied: a header may not name this client.
	SourceDenied
	// FamilyMismatched: client and backend are of different families, and
	// the policy is [Reject].
	FamilyMismatched
)

// Policy is how sources are chosen. The zero value prefers the client's port,
// refuses mismatched families and allows no source that is denied by default,
// but knows none of the gateway's addresses. It is safe for concurrent use as
// long as nobody changes it.
type Policy struct {
	SourcePort     SourcePort
	FamilyMismatch FamilyMismatch
	// Allow holds sources that are taken although they are denied by
	// default; nil holds none.
	Allow Addresses
	// Own holds the gateway's own addresses, see [OwnAddresses]; nil holds
	// none.
	Own Addresses
}

// Choice is the outcome of [Policy.Choose].
type Choice struct {
	// Source is what the socket to the backend is to be bound to, of the
	// backend's family and never 4-in-6. Port 0 leaves the port to the
	// kernel. It is the zero AddrPort unless Transparent is set.
	Source netip.AddrPort
	// Transparent says that the connection is made from Source; without it,
	// and without a refusal, from the gateway's own address.
	Transparent bool
	// Mapped says that Source is a stand-in for the client's address.
	Mapped bool
	// Refusal is None where the connection may be made.
	Refusal Refusal
	// Reason says more of a refusal, in a few constant words: the class of
	// a denied source, such as "loopback", or the two families.
	Reason string
}

// Choose says from which address the backend is to be dialled on behalf of
// client. Both are unmapped first. It is a pure function, safe for concurrent
// use, and does not allocate.
//
// Whether the client may be named at all comes before everything else, also
// where the connection would not be transparent in the end. An invalid backend
// is of no family.
func (p *Policy) Choose(client, backend netip.AddrPort) Choice {
	from, to := client.Addr().Unmap(), backend.Addr().Unmap()
	if reason := p.denied(from, to); reason != "" {
		return Choice{Refusal: SourceDenied, Reason: reason}
	}
	port := client.Port()
	if p.SourcePort == Any {
		port = 0
	}
	if to.IsValid() && from.Is4() == to.Is4() {
		if from.Is6() && scoped(from) {
			return Choice{Refusal: SourceDenied, Reason: "needs an interface"}
		}
		return Choice{Source: netip.AddrPortFrom(from, port), Transparent: true}
	}
	switch {
	case p.FamilyMismatch == Plain:
		return Choice{}
	case p.FamilyMismatch != Map || !to.IsValid():
		return Choice{Refusal: FamilyMismatched, Reason: mismatch(from, to)}
	}
	standIn := StandIn(from)
	if reason := p.taken(standIn, to); reason != "" {
		return Choice{Refusal: SourceDenied, Reason: reason}
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
