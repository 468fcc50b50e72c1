// Package gateway is the gateway's life: its configuration, from the words of
// a command line to what the engine takes, and its run from the first listener
// to the end of the drain.
package gateway

import (
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent/returnpath"
)

// Config is all that a [Gateway] needs. [Load] makes one from the words of an
// operator; a program may fill one in by hand. It is read once, by [New].
type Config struct {
	// Forwards are the ways through the gateway; at least one.
	Forwards []*forward.Forward
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
	// a transparent gateway, see [Config.PlanRoutes]. The gateway itself only
	// speaks of them.
	Routes returnpath.Options
	// SelfTestInterval is how often the way back of transparent forwards is
	// tested, see package doctor; 0 is never. The gateway itself does not.
	SelfTestInterval time.Duration
	// ReloadInterval is how often it is looked whether the files that lists of
	// addresses come from have changed; see [Gateway.Changed]. 0 is never.
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

	lists []liveList // that [Load] made, to be loaded again
}

// Problem is one thing that is wrong with a configuration, and what to do
// about it. All problems of a configuration are found at once: the error of
// [Load] and of [Config.Validate] joins them.
type Problem struct {
	// Message says what is wrong, with the value that is.
	Message string
	// Remedy says what to write instead; "" when the message says it all.
	Remedy string
}

// Error returns the message.
func (p *Problem) Error() string { return p.Message }

// Hint returns the remedy.
func (p *Problem) Hint() string { return p.Remedy }

// Warning is something in a configuration that works but that the operator
// should know of, such as a trust rule that covers everybody.
type Warning struct {
	// Message says what is doubtful.
	Message string
	// Remedy says what to write instead, or "".
	Remedy string
	// About is what it is about, where others look at the same.
	About Topic
}

// Topic is what a warning is about.
type Topic uint8

// The topics.
const (
	AboutSettings Topic = iota
	AboutTrust
	AboutDescriptors
)

// String returns the warning in one line.
func (w Warning) String() string {
	if w.Remedy == "" {
		return w.Message
	}
	return w.Message + ": " + w.Remedy
}
