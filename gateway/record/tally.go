package record

import "time"

// Tally holds the counters of one forward. Each event loop has one for each
// forward and is its only writer; a reader works on copies that the loop makes.
// The zero value is ready to use. It is not safe for concurrent use.
type Tally struct {
	// Accepted is the number of accepted connections.
	Accepted uint64
	// Closed is the number of finished connections by outcome and phase.
	Closed [NumOutcomes][NumPhases]uint64
	// Local is the number of those with a LOCAL header, such as health checks.
	Local [NumOutcomes]uint64
	// Headers is the number of complete headers by kind. Of stacked headers
	// only the last one counts.
	Headers [NumHeaderKinds]uint64
	// Bytes is the payload relayed so far, open connections included: [In] from
	// client to backend, [Out] from backend to client. Headers do not count.
	Bytes [2]uint64
	// PortFallbacks is the number of transparent connections that had to use
	// another source port than the client's.
	PortFallbacks uint64
	// HeaderTime runs from accept to the last byte of the header, ConnectTime
	// from there until the backend accepts: each is counted when it ends.
	// Duration runs from accept to the end of the connection.
	HeaderTime, ConnectTime, Duration Histogram
}

// The directions of [Tally.Bytes].
const (
	In  = iota // from client to backend
	Out        // from backend to client
)

// End counts a finished connection.
func (t *Tally) End(command Command, outcome Outcome, phase Phase, duration time.Duration) {
	t.Closed[outcome][phase]++
	if command == CommandLocal {
		t.Local[outcome]++
	}
	t.Duration.observe(duration, &longBounds)
}

// ObserveHeader counts a header that took d to arrive.
func (t *Tally) ObserveHeader(d time.Duration) { t.HeaderTime.observe(d, &shortBounds) }

// ObserveConnect counts a backend that took d to accept.
func (t *Tally) ObserveConnect(d time.Duration) { t.ConnectTime.observe(d, &shortBounds) }

// Add adds the counters of o to t.
func (t *Tally) Add(o *Tally) {
	t.Accepted += o.Accepted
	for outcome := range t.Closed {
		for phase := range t.Closed[outcome] {
			t.Closed[outcome][phase] += o.Closed[outcome][phase]
		}
	}
	for outcome := range t.Local {
		t.Local[outcome] += o.Local[outcome]
	}
	for kind := range t.Headers {
		t.Headers[kind] += o.Headers[kind]
	}
	t.Bytes[In] += o.Bytes[In]
	t.Bytes[Out] += o.Bytes[Out]
	t.PortFallbacks += o.PortFallbacks
	t.HeaderTime.add(&o.HeaderTime)
	t.ConnectTime.add(&o.ConnectTime)
	t.Duration.add(&o.Duration)
}

// ForwardTally is the sum of all loops' tallies of one forward.
type ForwardTally struct {
	// Name is the forward's label.
	Name string
	// Active is the number of its open connections and UDP flows.
	Active int
	Tally
}

// HeaderKind is the version and command of a PROXY header.
type HeaderKind uint8

// The kinds of header.
const (
	V1Proxy HeaderKind = iota
	V1Unknown
	V2Proxy
	V2Local
	V2Unknown
	NumHeaderKinds // their number
)

// Version returns "1" or "2".
func (k HeaderKind) Version() string {
	if k <= V1Unknown {
		return "1"
	}
	return "2"
}

// Command returns the command of the header.
func (k HeaderKind) Command() Command {
	return [...]Command{
		V1Proxy: CommandProxy, V1Unknown: CommandUnknown,
		V2Proxy: CommandProxy, V2Local: CommandLocal, V2Unknown: CommandUnknown,
	}[k]
}

// Command is for whom a header says that the connection was opened. The zero value
// is [NoCommand].
type Command uint8

// The commands.
const (
	NoCommand      Command = iota // no header was read
	CommandProxy                  // a client that the header names
	CommandLocal                  // the peer itself, for example a health check
	CommandUnknown                // a client that the header does not name
)

// String returns the command's word in logs and metrics, "" for [NoCommand]. It
// panics for an undefined command.
func (c Command) String() string {
	return [...]string{CommandProxy: "proxy", CommandLocal: "local", CommandUnknown: "unknown"}[c]
}
