// Package load is both ends of the benchmark's TCP connections: the load, which
// opens them to a gateway and counts what goes through, and the backend behind it.
// Each is one thread around one epoll instance that allocates nothing while it
// runs: what they cost is the ceiling of what a gateway can show.
//
// The first byte that a backend receives on a connection says what it does with
// it, see [Work]: so that a program with one listener and one backend can be
// measured with every load.
package load

// Work is what a connection does.
type Work uint8

// The kinds of work.
const (
	// PingPong: a request, an answer of the same size, and again.
	PingPong Work = iota
	// Connect: connect, header, one request, its answer, close, and again.
	Connect
	// Idle: one request and its answer, then nothing, until the load is closed.
	Idle
	// Down: the backend sends as much as goes through.
	Down
	// Up: the load does.
	Up
	// Both do.
	Both
)

// request is the byte that requests of a kind of work consist of.
func (w Work) request() byte {
	switch w {
	case Down:
		return askDown
	case Up:
		return askUp
	case Both:
		return askBoth
	}
	return askEcho
}

// What a connection's first byte asks of the backend.
const (
	askEcho byte = 'e'
	askDown byte = 'd'
	askUp   byte = 'u'
	askBoth byte = 'b'
)

// answers says that this work counts answers, and how long they took.
func (w Work) answers() bool { return w <= Idle }

// Group is connections that do the same.
type Group struct {
	Work        Work
	Connections int
	// Size of a request and of its answer in bytes, of works that have answers.
	Size int
}

// Count is what a group did since [Load.Reset].
type Count struct {
	// Answers that came in full, and how long each took: from the request, of
	// Connect from before the connection was opened.
	Answers uint64
	Latency Histogram
	// Bytes received and sent by works without answers.
	Bytes uint64
}
