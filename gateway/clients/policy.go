// Package clients decides by the client's address whether a connection is served: by rules,
// bans and rates. It does no I/O.
package clients

import (
	"net/netip"

	"unproxy/gateway/forward"
	"unproxy/gateway/limit"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// The reasons of a refusal, in the record of the connection.
const (
	ReasonRule   = "a rule denies this client"
	ReasonBan    = "this client is banned"
	ReasonAllow  = "no rule allows this client"
	ReasonNoName = "the header names no client, and only clients that a rule allows are served"
	ReasonRate   = "client exceeds the client-rate limit"
)

// Policy decides which clients of a forward are served. All event loops share it. It is
// safe for concurrent use, takes no lock and does not allocate.
type Policy struct {
	allow, deny, banned set
	rates               *limit.Rates
}

// New returns the policy of a forward. banned are the bans at run time, nil for none.
func New(f *forward.Forward, banned forward.Addresses) *Policy {
	return &Policy{
		allow: newSet(f.AllowClient), deny: newSet(f.DenyClient), banned: newSet(banned),
		rates: limit.NewClientRates(f.ClientRate),
	}
}

// Check decides about a connection of a client, and counts it. The outcome is
// [record.OK] if it may be served; otherwise reason says why not. A rule or a ban that
// denies takes precedence over a rule that allows. The client's address is unmapped. loop
// is the number of the calling event loop, and now a time of the kernel's clock in
// nanoseconds.
func (p *Policy) Check(client netip.Addr, loop int, now int64) (outcome record.Outcome, reason string) {
	embeds := transparent.MayEmbed(client)
	switch {
	case p.deny.denies(client, embeds, loop):
		return record.ClientDenied, ReasonRule
	case p.banned.denies(client, embeds, loop):
		return record.ClientDenied, ReasonBan
	case p.allow.given() && !p.allow.allows(client, embeds, loop):
		return record.ClientDenied, ReasonAllow
	case !p.rates.Allow(client, now):
		return record.Limit, ReasonRate
	}
	return record.OK, ""
}

// CheckUnnamed decides about a connection whose header names no client (UNKNOWN). It is
// refused if only some clients are allowed: this one could be any.
func (p *Policy) CheckUnnamed() (outcome record.Outcome, reason string) {
	if p.allow.given() {
		return record.ClientDenied, ReasonNoName
	}
	return record.OK, ""
}

// set is a set of addresses, which may count its hits. The zero value is not given and
// empty.
type set struct {
	addresses forward.Addresses
	counts    forward.HitCounter // addresses, if that counts
}

func newSet(a forward.Addresses) set {
	counts, _ := a.(forward.HitCounter)
	return set{a, counts}
}

func (s *set) given() bool { return s.addresses != nil }

// denies reports whether the set holds a client, or an IPv4 address that the client's IPv6
// address contains in a well-known form. embeds is [transparent.MayEmbed] of the client.
func (s *set) denies(client netip.Addr, embeds bool, loop int) bool {
	if s.addresses == nil {
		return false
	}
	return s.has(client, loop) ||
		embeds && transparent.Embeds(client, func(v4 netip.Addr) bool { return s.has(v4, loop) }) != ""
}

// allows is denies without the forms that any owner of an IPv6 network can choose.
func (s *set) allows(client netip.Addr, embeds bool, loop int) bool {
	return s.has(client, loop) ||
		embeds && transparent.EmbedsRouted(client, func(v4 netip.Addr) bool { return s.has(v4, loop) })
}

func (s *set) has(a netip.Addr, loop int) bool {
	if s.counts != nil {
		return s.counts.Admit(a, loop)
	}
	return s.addresses.Contains(a)
}

// Matches returns the function that reports whether a client is in a prefix, or contains
// an IPv4 address of it in a well-known form, as for a ban.
func Matches(p netip.Prefix) func(client netip.Addr) bool {
	return func(client netip.Addr) bool {
		return p.Contains(client) || transparent.Embeds(client, p.Contains) != ""
	}
}
