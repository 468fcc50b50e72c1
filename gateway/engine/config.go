package engine

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// Addresses is a set of addresses. It must be safe for concurrent use and
// must not allocate: it is asked on the data path. [unproxy/trust.Set]
// is one, and [unproxy/trust.Live] one that may change.
type Addresses interface {
	// Contains reports whether a is in the set. a is never a 4-in-6 address.
	Contains(a netip.Addr) bool
}

// HitCounter is a set of addresses that counts which of its rules admit peers.
// [unproxy/trust.Set] is one.
type HitCounter interface {
	Addresses
	// Admit is Contains, and counts. Each loop calls it with a number of its
	// own, so that they need not write to the same memory.
	Admit(a netip.Addr, loop int) bool
}

// Config is what an [Engine] needs. It is read once, by [New].
type Config struct {
	// Forwards are the ways through the gateway.
	Forwards []*Forward
	// Loops is the number of event loops, at least 1.
	Loops int
	// Spin is how long after an event a loop looks for the next one without
	// sleeping, which keeps its processor busy for so long. It saves the time
	// that a sleeping processor takes to wake up, tens of microseconds. 0 is off.
	Spin time.Duration
	// MaxConnections is the number of connections at which the engine stops
	// accepting; later ones wait in the kernel's queue. 0 is no limit.
	MaxConnections int
	// MaxWaiting is the number of connections that may wait for their header at
	// once, shared out evenly over the loops; at the limit the one that has
	// waited longest is reset. 0 is no limit.
	MaxWaiting int
	// Lookup resolves a name to its addresses; nil is the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Guest makes what each loop does for the forwards of datagrams, whose
	// listeners it opens. It is called by New, once for each loop, in order;
	// never where there is no such forward. nil is none.
	Guest func(Host, []*Route) (Guest, error)
	// Report receives each finished connection. It is called on an event
	// loop, from several at once, and must neither block nor keep its
	// argument.
	Report func(*record.Connection)
	// Notice receives the rare events that an operator should know of and
	// that belong to no connection. It may be called from any goroutine.
	Notice func(Notice)
	// Kernel replaces the operating system in tests; nil is the real one.
	Kernel Kernel
}

// Notice is something that happened to the engine as a whole.
type Notice struct {
	// Event is a stable word: "accept_paused", "accept_resumed",
	// "accept_failed", "resolve_failed", "resolved".
	Event string
	// Forward is the listener concerned, if it is one.
	Forward string
	// Detail says more, in a sentence.
	Detail string
	// Err is the error behind it, if there is one.
	Err error
}

// Endpoint is where a socket listens or connects to: an address, or the path
// of a unix socket.
type Endpoint struct {
	Addr netip.AddrPort
	Path string
}

// IsUnix reports whether e is a unix socket.
func (e Endpoint) IsUnix() bool { return e.Path != "" }

// String returns the endpoint as it is written on the command line.
func (e Endpoint) String() string {
	if e.IsUnix() {
		return "unix:" + e.Path
	}
	return e.Addr.String()
}

// Listener is one listening socket of a forward and where it leads.
type Listener struct {
	// Name is the listener as the operator wrote it: the value of the log's
	// "forward".
	Name string
	// Endpoint is where it listens. Port 0 takes a free port.
	Endpoint Endpoint
	// DualStack lets an IPv6 wildcard take IPv4 connections too; where the
	// host has no IPv6 it listens on the IPv4 wildcard instead.
	DualStack bool
	// Activation is the name by which systemd hands the socket over; "" for
	// a listener that opens its own.
	Activation string
	// Socket is a listening socket that is open already; nil opens one at
	// Endpoint. A listener with an Activation must have one.
	Socket *Socket
	// Backends are tried in order; see [Forward.Transparent] for which.
	Backends []Backend
}

// Backend is a server to connect to. Exactly one of its fields but Port is set.
type Backend struct {
	// Endpoint is a fixed address or a unix socket.
	Endpoint Endpoint
	// Host is a DNS name, resolved off the loops and kept fresh; Port goes
	// with it.
	Host string
	Port uint16
	// FromHeader connects to the destination that the header names or, behind
	// a TProxy listener, where none does, to where the connection was sent.
	FromHeader bool
}

// Redirect is what the host's packet filter hands to a TProxy listener: the TCP
// connections to some ports of some addresses.
type Redirect struct {
	// Prefix holds the addresses, masked and never 4-in-6. The zero Prefix
	// stands for the host's own addresses, of both families.
	Prefix netip.Prefix
	// Low and High are the first and the last port, at least 1.
	Low, High uint16
}

// AllPorts reports whether r is of every port that there is.
func (r Redirect) AllPorts() bool { return r.Low <= 1 && r.High == 65535 }

// String returns r as it is written on the command line.
func (r Redirect) String() string {
	ports := fmt.Sprintf(":%d-%d", r.Low, r.High)
	switch {
	case r.Low == r.High:
		ports = fmt.Sprintf(":%d", r.Low)
	case r.AllPorts() && r.Prefix.IsValid():
		ports = ""
	}
	switch {
	case !r.Prefix.IsValid():
		return ports
	case r.Prefix.Addr().Is6():
		return "[" + r.Prefix.String() + "]" + ports
	}
	return r.Prefix.String() + ports
}

// Forward is one way through the gateway: where it listens, whom it believes,
// what it demands of headers, and how it reaches the backends. It is shared
// by all loops and never changes once the engine runs.
type Forward struct {
	// Name is what the forward is called in metrics; "" takes the name of its
	// first listener.
	Name      string
	Listeners []Listener
	// SocketMode is the mode of a listener's unix socket: who may connect to
	// it is who may speak for a client.
	SocketMode fs.FileMode

	// Trust holds the peers that may name a client; a [HitCounter] is told of
	// each. Peers on a unix socket
	// are trusted: the socket's mode admitted them.
	Trust Addresses
	// CutUntrusted has [Engine.Recheck] reset the connections of peers that
	// Trust does not hold any more. Otherwise they keep what they have.
	CutUntrusted bool
	// PassUntrusted takes a peer outside Trust as a client itself, whose
	// bytes are all payload. Otherwise it is reset unread.
	PassUntrusted bool
	// Health holds the peers whose connections are closed cleanly without a
	// header. It goes before Trust; nil holds none.
	Health Addresses

	// Header says which headers are taken.
	Header proxyproto.Options
	// Headers is how many headers are stacked, at least 1; the last one
	// names the client.
	Headers int
	// HeaderTimeout is from accept to the last header's last byte; 0 is none.
	HeaderTimeout time.Duration
	// CloseLocal closes LOCAL connections cleanly instead of relaying them.
	CloseLocal bool
	// RejectUnknown refuses headers that name no usable client.
	RejectUnknown bool

	// TProxy lets the listeners take connections to other addresses and ports
	// than their own, those that the host's packet filter hands to them. It
	// needs what Transparent needs, and is not for unix sockets.
	TProxy bool
	// Redirect is what the packet filter hands to the listener, for whoever
	// sets the packet filter up; the engine does not look at it.
	Redirect []Redirect

	// Transparent connects to the backend from the client's address, by
	// Source's rules. Backends of the client's family come first, and alone
	// if Source rejects a mismatch.
	Transparent bool
	Source      transparent.Policy
	// AllowDestination holds where a FromHeader backend may lead. It never
	// leads back to its own listener, not to any of Source.Own's addresses
	// either that the listener takes connections to.
	AllowDestination Addresses
	// Mark is the SO_MARK of sockets to the backend; 0 sets none.
	Mark uint32
	// ConnectTimeout is for all backends together; 0 is none.
	ConnectTimeout time.Duration

	// Datagrams makes the listeners UDP sockets. The engine leaves such a
	// forward to its guests. DatagramHeader says which datagrams bear a
	// header, FlowTimeout how long a flow may be silent both ways before it
	// ends, and MaxFlows at how many the one that was silent the longest
	// gives way to the next; 0 is no limit.
	Datagrams      bool
	DatagramHeader DatagramHeader
	FlowTimeout    time.Duration
	MaxFlows       int

	// IdleTimeout ends a connection that carried nothing for so long; 0 is
	// none.
	IdleTimeout time.Duration
	// Keepalive is the TCP keep-alive's idle time and interval; 0 is off.
	Keepalive time.Duration
	// UserTimeout is TCP_USER_TIMEOUT; 0 leaves the system's.
	UserTimeout time.Duration

	// MaxConnections is the number of this forward's connections at which
	// its listeners stop accepting; 0 is no limit.
	MaxConnections int
	// MaxConnectionsPerClient is the number of connections, or of flows, at
	// which a client's next one is refused; 0 is no limit. IPv6 clients of one
	// /64 are one client.
	MaxConnectionsPerClient int
	// AcceptRate is how often each peer may connect; beyond it, it is reset. IPv6
	// peers of one /64 are one peer. Peers that are not served anyway do not
	// count, nor do those on a unix socket.
	AcceptRate Rate
}

// Label returns what the forward is called in metrics.
func (f *Forward) Label() string {
	if f.Name != "" || len(f.Listeners) == 0 {
		return f.Name
	}
	return f.Listeners[0].Name
}

// DatagramHeader says which of a peer's datagrams bear a header, and of what
// kind. It is never told by the bytes.
type DatagramHeader uint8

// The kinds of sender.
const (
	// EveryDatagram: a PROXY header of version 2 in each datagram, as the
	// specification has it (section 2).
	EveryDatagram DatagramHeader = iota
	// FirstDatagram: a PROXY header of version 2 in the first datagram of a
	// flow. A peer's address and port are then one flow.
	FirstDatagram
	// SimpleProxy: the 38 bytes of Cloudflare's Simple Proxy Protocol in each
	// datagram, and before each reply.
	SimpleProxy
)

var datagramHeaders = [...]string{EveryDatagram: "every", FirstDatagram: "first", SimpleProxy: "spp"}

// String returns the word of the flag --udp-header.
func (h DatagramHeader) String() string { return datagramHeaders[h] }
