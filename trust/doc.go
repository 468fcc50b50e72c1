// Package trust decides which peers' PROXY headers are believed. It turns an
// operator's rules (addresses, prefixes, presets and templates) into an immutable
// [Set] of prefixes, which the gateway queries once per connection.
//
//	set, warnings, err := trust.Load(trust.Source{Rules: []string{"10.0.0.0/8"}, Flag: "--trust"})
//	…
//	if set.Contains(peer) { … }
//
// Parsing is strict. A rule with two possible meanings is rejected with a hint
// that gives the unambiguous spellings, a file with one invalid line is rejected
// as a whole, and a set without rules trusts no address.
package trust
