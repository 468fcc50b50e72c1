// Package doctor checks whether a gateway can work on this host and reports how
// to fix what is wrong.
//
// It checks the state in force, not only the configuration: the capabilities of
// the process, the rules that the kernel follows, the servers that answer at the
// backends' addresses. The decisive check is a real connection: it connects to
// each transparent backend from an address of the documentation networks
// (RFC 5737, RFC 3849), as the gateway does for a client, and waits for the answer.
//
//	Config ──▶ targets ──▶ checks ──▶ Findings ──without consequences──▶ Report
//	                         │
//	                       Host: /proc, sockets, routes
//
// [Run] runs all checks once. [Cache] does so on demand inside a running gateway.
// [Watch] repeats the return path test, so that the gateway is not ready while
// replies are lost, and provides the hint for the log line of a lost connection.
//
// Each check is a small function over a [Host], so tests can describe any host as
// data. Each finding has a [Code] from a closed table.
package doctor
