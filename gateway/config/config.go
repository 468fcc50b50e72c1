// Package config turns flags, environment variables and forwards into the
// configuration of a gateway. It reads environment files, the file of bans and the
// files of address lists, the latter again on a reload. It opens no sockets and
// resolves no names.
package config

import (
	"net/netip"
	"time"

	"unproxy/gateway/ban"
	"unproxy/gateway/forward"
	"unproxy/gateway/sandbox"
	"unproxy/transparent/returnpath"
)

// Config is the configuration of a gateway. [Load] creates one from flags and
// forwards; a program may also fill in the fields itself.
type Config struct {
	// Forwards are the listeners and their backends; at least one.
	Forwards []*forward.Forward
	// Taken lists the process's own listeners, such as the admin endpoint.
	// [Config.Validate] rejects a forward on the same address.
	Taken []Taken
	// Loops is the number of event loops; 0 is one per CPU.
	Loops int
	// Spin is how long an event loop polls after an event before it sleeps. The
	// loop uses its CPU fully meanwhile. 0 is off.
	Spin time.Duration
	// MaxConnections limits the connections of all forwards together. At the
	// limit, new connections wait in the kernel's queue. 0 is no limit.
	MaxConnections int
	// MaxWaiting limits the connections that wait for their header. Beyond it, the
	// one that has been silent the longest is reset. 0 is no limit.
	MaxWaiting int
	// MaxPipes limits the pipes through which bulk data is spliced. Beyond it, data is
	// copied. 0 is no limit.
	MaxPipes int
	// MaxBuffer limits the memory of the process, in bytes, for what was read from
	// one side of a connection and not taken by the other, all connections together.
	// At the limit, data stays in the sockets that it comes from. 0 is no limit.
	MaxBuffer int
	// MaxFlows limits the UDP flows of all forwards together. At the limit, a new
	// flow ends the one that has been silent the longest. 0 is no limit.
	MaxFlows int
	// DrainDelay is how long the gateway keeps accepting after a request to
	// stop, so that load balancers notice in time. 0 is no delay.
	DrainDelay time.Duration
	// DrainTimeout is how long connections may take to finish after DrainDelay;
	// then they are reset. 0 resets them at once.
	DrainTimeout time.Duration
	// Routes are the table, preference and marks of the return path, see
	// [Config.Targets]. The gateway itself does not use them.
	Routes returnpath.Options
	// SelfTestInterval is how often package doctor tests the return path of
	// transparent forwards; 0 is never. The gateway itself does not use it.
	SelfTestInterval time.Duration
	// ReloadInterval is how often address-list files are polled for changes, see
	// [Lists.Changed]; 0 is never.
	ReloadInterval time.Duration
	// UpgradeTimeout limits the time until the process that takes over is ready.
	UpgradeTimeout time.Duration
	// User is the user that the process becomes once its listeners are open; nil
	// keeps the current one. Sandbox says what becomes of restrictions that the host
	// does not support. The gateway itself does not use them.
	User    *sandbox.User
	Sandbox sandbox.Mode
	// EnvFiles are the environment files that were read, without the "-" of optional
	// ones.
	EnvFiles []string
	// Bans are the clients that are banned at run time; nil is an empty list without a
	// file.
	Bans *ban.List
	// Lists are the address lists of the forwards, for reloading; nil is none.
	Lists *Lists
}

// Taken is a TCP address or a unix socket on which the process itself listens,
// such as the admin endpoint.
type Taken struct {
	// Flag is the flag that sets it, with its dashes, for messages.
	Flag     string
	Endpoint forward.Endpoint
}

// listener returns t as a listener. An IPv6 wildcard accepts both families.
func (t Taken) listener() forward.Listener {
	return forward.Listener{Endpoint: t.Endpoint, DualStack: t.Endpoint.Addr.Addr() == netip.IPv6Unspecified()}
}
