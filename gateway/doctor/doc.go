// Package doctor finds out why a gateway does not do what it was set up for,
// and says what mends it.
//
// It looks at what is in force on this host, not at what is configured: which
// capabilities the process has, which rules the kernel follows, who answers at
// a backend's address. The decisive look is a real one: it connects to each
// transparent backend from an address of the documentation's networks
// (RFC 5737, RFC 3849), as the gateway will for its clients, and waits for the
// answer.
//
//	Config ──▶ targets ──▶ checks ──▶ Findings ──less what only follows──▶ Report
//	                         │
//	                       Host: files below /proc, sockets, routes
//
// Each check is a small function over a [Host], the view of the machine, so
// that every host there may be can be made up in a test. What a check finds has
// a [Code], one of a closed table.
//
// [Watch] makes the same test again and again while a gateway runs, so that its
// readiness tells the truth, and keeps the remedies that the log's line of a
// lost connection names.
package doctor
