// Package config turns flags, environment variables and forwards into the
// configuration of a gateway. It reads environment files and the files of
// address lists, the latter again on a reload. It opens no sockets and
// resolves no names.
package config

import (
	"net/netip"
	"time"

	"unproxy/gateway/forward"
	"unproxy/transparent/returnpath"
)

// Config is the configuration of a gateway. [Load] creates one from flags and
// forwards; a program may also fill in the fields itself.
type Config struct {
	// Forwards are the listeners and their backends; at least one.
	Forwards []*forward.Forward
	// Taken is what the process itself listens on. [Config.Validate] refuses a
	// forward that listens there as well.
	Taken []Taken
	// Loops is the number of event loops; 0 is one for each CPU.
	Loops int
	// Spin is how long an event loop polls after an event before it sleeps; its
	// CPU is busy meanwhile. 0 is off.
	Spin time.Duration
	// MaxConnections is the number of connections, of all forwards together,
	// at which the gateway stops accepting: new ones wait in the kernel's queue.
	// 0 is no limit.
	MaxConnections int
	// MaxWaiting is the number of connections that may wait for their header at
	// once; beyond, the one that was silent longest is reset. 0 is no limit.
	MaxWaiting int
	// MaxFlows is the number of UDP flows, of all forwards together, at which a
	// new one ends the one that was silent longest. 0 is no limit.
	MaxFlows int
	// DrainDelay is how long the gateway keeps accepting after a request to
	// stop, so that load balancers notice in time. 0 is no delay.
	DrainDelay time.Duration
	// DrainTimeout is how long connections may take to finish after DrainDelay;
	// then they are reset. 0 resets them at once.
	DrainTimeout time.Duration
	// Routes are the numbers that the rules and routes of the return path use,
	// see [Config.Targets]. The gateway itself sets up none of them.
	Routes returnpath.Options
	// SelfTestInterval is how often the return path of transparent forwards is
	// tested, see package doctor; 0 is never. The gateway itself does not test.
	SelfTestInterval time.Duration
	// ReloadInterval is how often address-list files are polled for changes, see
	// [Lists.Changed]; 0 is never.
	ReloadInterval time.Duration
	// UpgradeTimeout is how long a process that takes over may take to become
	// ready.
	UpgradeTimeout time.Duration
	// Lists are the lists of addresses that [Load] read for the forwards; nil
	// is none.
	Lists *Lists
}

// Taken is a TCP address or a unix socket that the process listens on itself,
// such as an admin endpoint.
type Taken struct {
	// Flag is the flag that it comes from, with its dashes, for messages.
	Flag     string
	Endpoint forward.Endpoint
}

// listener returns what t listens on. An IPv6 wildcard takes both families.
func (t Taken) listener() forward.Listener {
	return forward.Listener{Endpoint: t.Endpoint, DualStack: t.Endpoint.Addr.Addr() == netip.IPv6Unspecified()}
}
