// Package load is both ends of the benchmark's TCP connections: the load, which opens
// connections to a gateway and counts the transferred data, and the backend. Each is one
// thread with one epoll instance and allocates nothing while it runs, because its cost
// limits what a gateway can show.
//
// The first byte that a backend receives on a connection selects what it does, see [Work].
// So one listener and one backend suffice for every load.
package load

// Work is what a connection does.
type Work uint8

// The kinds of work.
const (
	// PingPong: a request, a response of the same size, and again.
	PingPong Work = iota
	// Connect: connect, header, one request, its response, close, and again.
	Connect
	// Untrusted: connect from an address outside [Peers], wait for the end, and again. An attacker need
	// not send anything either.
	Untrusted
	// Denied: connect, header, one request, wait for the end, and again.
	Denied
	// Idle: one request and its response, then nothing until the load is closed.
	Idle
	// Down: the backend sends as fast as possible.
	Down
	// Up: the load sends as fast as possible.
	Up
	// Both: both send as fast as possible.
	Both
	// Blocked: the backend sends as fast as possible, and the load reads nothing.
	Blocked
)

// request returns the byte that fills the requests of a kind of work.
func (w Work) request() byte {
	switch w {
	case Down, Blocked:
		return askDown
	case Up:
		return askUp
	case Both:
		return askBoth
	}
	return askEcho
}

// The first byte of a connection selects one of these for the backend.
const (
	askEcho byte = 'e'
	askDown byte = 'd'
	askUp   byte = 'u'
	askBoth byte = 'b'
)

// answers reports whether this work counts responses and their latency.
func (w Work) answers() bool { return w <= Idle }

// refused reports whether the response that this work counts is a FIN or a RST instead of data.
func (w Work) refused() bool { return w == Untrusted || w == Denied }

// once reports whether each connection of this work is opened for one response.
func (w Work) once() bool { return w == Connect || w.refused() }

// Group is a number of connections with the same work.
type Group struct {
	Work        Work
	Connections int
	// Size of a request and of its response in bytes, for work with responses.
	Size int
}

// Count is the work of a group since [Load.Reset].
type Count struct {
	// Answers is the number of complete responses. Latency is measured from the request,
	// for connections that are opened for one response from before connect(2).
	Answers uint64
	Latency Histogram
	// Bytes received and sent by work without responses.
	Bytes uint64
}
