// Package config turns an operator's words, the texts of flags, environment
// variables and forwards, into the configuration of a gateway. It reads the
// lists of addresses that it is pointed at, and reads them again on a reload;
// it opens nothing else.
package config

import (
	"net/netip"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent/returnpath"
)

// Config is all that a gateway needs. [Load] makes one from an operator's
// words; a program may fill one in by hand.
type Config struct {
	// Forwards are the ways through the gateway; at least one.
	Forwards []*forward.Forward
	// Taken is what the process listens on besides the forwards' listeners.
	// Nothing opens it here: no forward may have it.
	Taken []Taken
	// Loops is the number of event loops; 0 is one for each CPU.
	Loops int
	// Spin is how long after an event an event loop looks for the next one
	// without sleeping, at the price of a processor that is busy meanwhile. 0
	// is off.
	Spin time.Duration
	// MaxConnections is the number of connections, of all forwards together,
	// at which the gateway stops accepting and lets new ones wait in the
	// kernel's queue. 0 is no limit.
	MaxConnections int
	// MaxWaiting is the number of connections that may wait for their header at
	// once; at the limit the one that has waited longest is reset. 0 is no limit.
	MaxWaiting int
	// MaxFlows is the number of flows of datagrams, of all forwards together,
	// at which the one that was silent the longest gives way to the next. 0 is
	// no limit.
	MaxFlows int
	// DrainDelay is how long the gateway goes on accepting after it was told
	// to stop, for load balancers to notice. 0 is not at all.
	DrainDelay time.Duration
	// DrainTimeout is how long connections may take to finish after that;
	// then they are cut. 0 cuts them at once.
	DrainTimeout time.Duration
	// Routes are the numbers of the rules and routes that bring replies back to
	// a transparent gateway, see [Config.Targets]. The gateway itself only
	// speaks of them.
	Routes returnpath.Options
	// SelfTestInterval is how often the way back of transparent forwards is
	// tested, see package doctor; 0 is never. The gateway itself does not.
	SelfTestInterval time.Duration
	// ReloadInterval is how often it is looked whether the files that lists of
	// addresses come from have changed; see [Lists.Changed]. 0 is never.
	ReloadInterval time.Duration
	// UpgradeTimeout is how long a process that is to take over may take until
	// it serves.
	UpgradeTimeout time.Duration
	// Observe receives each finished connection. It is called on an event
	// loop, from several at once, and must neither block nor keep its
	// argument. nil is nobody.
	Observe func(*record.Connection)
	// Notice receives the rare events that belong to no connection. It may be
	// called from any goroutine. nil is nobody.
	Notice func(engine.Notice)

	// Lists are the lists of addresses that [Load] read for the forwards; nil
	// is none.
	Lists *Lists
}

// Taken is a TCP address or a unix socket that the process listens on itself,
// such as an admin endpoint.
type Taken struct {
	// Flag is the flag that says so, with its dashes, for messages.
	Flag     string
	Endpoint forward.Endpoint
}

// listener returns what t listens on. An IPv6 wildcard takes both families.
func (t Taken) listener() forward.Listener {
	return forward.Listener{Endpoint: t.Endpoint, DualStack: t.Endpoint.Addr.Addr() == netip.IPv6Unspecified()}
}
