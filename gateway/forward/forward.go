// Package forward defines the types of a validated configuration: forwards with
// their listeners, trusted peers, header requirements and backends.
//
// Package config creates them; the engine and the UDP relay read them. The package
// does no I/O.
package forward

import (
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"unproxy/gateway/proxyproto"
	"unproxy/transparent"
)

// Forward is a set of listeners with their backends and settings. All event loops
// share it, so it must not change after the gateway has been created.
type Forward struct {
	// Name is the forward's name in metrics; "" uses the name of its first
	// listener. See [Forward.Label].
	Name string
	// Listeners are the sockets it accepts on, at least one.
	Listeners []Listener
	// SocketMode is the file mode of unix listeners. It decides which users may
	// connect, and with that who may name a client.
	SocketMode fs.FileMode

	// Trust is the set of peers that may name a client. If it is a [HitCounter]
	// it counts each admitted peer. Peers on a unix socket are always trusted:
	// the mode of the socket admitted them.
	Trust Addresses
	// CutUntrusted resets the connections of peers that Trust no longer holds
	// after a reload. If false, they keep their connections.
	CutUntrusted bool
	// PassUntrusted takes a peer outside Trust as the client itself and forwards
	// all its bytes as payload. If false, the gateway resets it unread.
	PassUntrusted bool
	// Direct is the set of peers that connect without a header: each is the client
	// itself, as with PassUntrusted. Where Trust holds the peer, too, the more
	// specific prefix decides, and Trust if both are equal. nil is empty.
	Direct Addresses
	// Health is the set of peers whose connections the gateway closes cleanly
	// without waiting for a header. It is checked before Trust; nil is empty.
	Health Addresses

	// AllowClient is the set of clients that are served; nil is all. DenyClient is
	// the set of those that are not, and takes precedence; nil is empty. Both apply
	// to clients that a header names and to peers that are the client themselves,
	// not to LOCAL connections. If AllowClient is set, a client that the header does
	// not name is not served. A [HitCounter] counts the clients that it holds.
	AllowClient, DenyClient Addresses
	// ClientRate limits how often each client may connect, or begin a UDP flow. The
	// IPv6 addresses of one /64 count as one client.
	ClientRate Rate

	// Header are the decoder's options.
	Header proxyproto.Options
	// Headers is the exact number of stacked headers, at least 1. The last one
	// names the client.
	Headers int
	// HeaderTimeout limits the time from accept to the last byte of the last
	// header; 0 is no limit.
	HeaderTimeout time.Duration
	// CloseLocal closes LOCAL connections cleanly instead of relaying them.
	CloseLocal bool
	// RejectUnknown rejects valid headers that name no usable client.
	RejectUnknown bool

	// TProxy accepts connections to foreign addresses and ports which the
	// host's packet filter redirects to the listeners. It needs the same
	// capability as Transparent and is not for unix sockets.
	TProxy bool
	// Redirect lists the destinations that the packet filter redirects to the
	// listeners. Only the plan of the packet filter's rules uses it.
	Redirect []Redirect

	// Transparent makes the backend see the client's address, as Source allows: it
	// connects from that address, or sends it in an option. Backends of the client's
	// address family are tried first; if Source rejects a mismatch, only those are
	// tried.
	Transparent bool
	Source      transparent.Policy
	// TOA makes a transparent forward send the client's address in a TCP option
	// instead of connecting from it.
	TOA TOA
	// AllowDestination is the set of destinations that a FromHeader backend may
	// connect to. A destination never leads to one of OwnListeners.
	AllowDestination Addresses
	// OwnListeners are the sockets on which this process listens. The gateway
	// sets it, and completes it before the first connection; nil is none.
	OwnListeners *OwnListeners
	// SourceAddresses are this host's addresses from which it connects in plain mode,
	// or with TOA: every address of each prefix, in turn. For a family without any, the
	// kernel chooses the address. nil is none. With TOA, connections that carry no
	// client, such as LOCAL ones, do not come from them: a backend's host that requires
	// the option of these addresses would drop those.
	SourceAddresses []netip.Prefix
	// Mark is the SO_MARK of sockets to the backend; 0 sets none.
	Mark uint32
	// ConnectTimeout limits the time for all backends together; 0 is no limit.
	ConnectTimeout time.Duration
	// BackendCheck is how often the gateway connects to each backend, to learn
	// which ones answer; 0 is never.
	BackendCheck time.Duration
	// BackendRetry is how long a backend that refused or timed out is tried last;
	// 0 remembers nothing.
	BackendRetry time.Duration

	// OnDemand means that the backends listen only when they expect a connection, as
	// in passive FTP. Only the doctor and the self-test use it: they do not report a
	// backend that is not listening.
	OnDemand bool

	// Datagrams makes the listeners UDP sockets.
	Datagrams bool
	// DatagramHeader says which datagrams carry a header.
	DatagramHeader DatagramHeader
	// FlowTimeout ends a flow after this time without a datagram in either
	// direction.
	FlowTimeout time.Duration
	// MaxFlows limits the flows of this forward; at the limit a new flow evicts
	// the least recently active one. 0 is no limit.
	MaxFlows int

	// IdleTimeout ends a connection after this time without a byte in either
	// direction; 0 is no limit.
	IdleTimeout time.Duration
	// Keepalive is the idle time and the interval of TCP keep-alive; 0 is off.
	Keepalive time.Duration
	// UserTimeout is TCP_USER_TIMEOUT, see tcp(7); 0 leaves the system's.
	UserTimeout time.Duration

	// MaxConnections is the number of this forward's connections at which its
	// listeners stop accepting; 0 is no limit.
	MaxConnections int
	// MaxConnectionsPerClient is the number of connections, or of flows, at
	// which a client's next one is refused; 0 is no limit. The IPv6 addresses
	// of one /64 count as one client.
	MaxConnectionsPerClient int
	// AcceptRate limits how often each peer may connect; the excess is reset. For UDP it
	// limits how often each peer may begin a flow; the datagrams of others are dropped.
	// The IPv6 addresses of one /64 count as one peer. Untrusted peers do not
	// count, nor do peers on a unix socket.
	AcceptRate Rate
}

// Label returns the forward's name in metrics: Name, or the name of its first
// listener.
func (f *Forward) Label() string {
	if f.Name != "" || len(f.Listeners) == 0 {
		return f.Name
	}
	return f.Listeners[0].Name
}

// AnyBackend reports whether a backend of any listener matches.
func (f *Forward) AnyBackend(match func(Backend) bool) bool {
	return slices.ContainsFunc(f.Listeners, func(l Listener) bool { return slices.ContainsFunc(l.Backends, match) })
}

// HasHeaderBackend reports whether a backend is the destination that the header
// names.
func (f *Forward) HasHeaderBackend() bool {
	return f.AnyBackend(func(b Backend) bool { return b.FromHeader })
}

// UsesClientPort reports whether connections to the backend are made from the
// client's port, if it is available.
func (f *Forward) UsesClientPort() bool {
	return f.ConnectsAsClient() && f.Source.SourcePort != transparent.Any
}

// HasUnixListener reports whether a listener is a unix socket.
func (f *Forward) HasUnixListener() bool {
	return slices.ContainsFunc(f.Listeners, func(l Listener) bool { return l.Endpoint.IsUnix() })
}

// HasInternetListener reports whether a listener is no unix socket. A socket of systemd
// may be one.
func (f *Forward) HasInternetListener() bool {
	return slices.ContainsFunc(f.Listeners, func(l Listener) bool { return !l.Endpoint.IsUnix() })
}

// Rate limits how often something may happen. The zero value is no limit.
type Rate struct {
	// PerSecond is the sustained rate, at most 100 000.
	PerSecond int
	// Burst is how often it may happen at once, at least 1 if PerSecond is set.
	Burst int
}

// Addresses is a set of addresses. Implementations are safe for concurrent use
// and do not allocate: the data path calls them. [unproxy/trust.Set] is one, and
// [unproxy/trust.Live] one whose content can be replaced.
type Addresses interface {
	// Contains reports whether a is in the set. a is never IPv4-mapped IPv6.
	Contains(a netip.Addr) bool
}

// HitCounter is a set of addresses that counts how many peers each of its rules
// admits.
type HitCounter interface {
	Addresses
	// Admit is Contains, and counts the hit. Each loop passes its own number,
	// so that loops do not write to shared memory.
	Admit(a netip.Addr, loop int) bool
}

// MostSpecific is a set of prefixes that tells how specific they are.
type MostSpecific interface {
	Addresses
	// Bits returns the length of the longest prefix that contains a, or -1.
	Bits(a netip.Addr) int
}

// IsDirect reports whether a peer is in Direct, and not in a prefix of Trust that is at
// least as specific.
func (f *Forward) IsDirect(peer netip.Addr) bool {
	if f.Direct == nil || !f.Direct.Contains(peer) {
		return false
	}
	if f.Trust == nil || !f.Trust.Contains(peer) {
		return true
	}
	direct, ok1 := f.Direct.(MostSpecific)
	trusted, ok2 := f.Trust.(MostSpecific)
	return ok1 && ok2 && direct.Bits(peer) > trusted.Bits(peer)
}
