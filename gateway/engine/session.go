package engine

import (
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// state is what a session waits for.
type state uint8

const (
	free       state = iota // nobody's
	reading                 // the header
	closing                 // the peer's FIN, after ours
	dialling                // the backend
	diagnosing              // a plain connect, to tell why the transparent one timed out
	relaying                // either side
)

// String returns the state's word.
func (s state) String() string {
	return [...]string{
		free: "free", reading: "header", closing: "closing", dialling: "dialling", diagnosing: "diagnosing", relaying: "relaying",
	}[s]
}

// The two sides of a session, and of a socket's tag.
const (
	peer    = tagPeer
	backend = tagBackend
)

const (
	// interest is what a socket is registered for, edge-triggered. EPOLLOUT
	// is added to a peer's only when a write blocked; a backend's has it from
	// the start, because it tells of the connection.
	interest = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET
	// closingTime is how long a peer may take to close after we did.
	closeTimeout = 5 * time.Second
	// roomTime is how long a session waits for a descriptor while its loop
	// gives none back: then it makes room itself.
	resourceTimeout = 2 * time.Second
)

// session is one connection through the gateway. Its state machine is trust.go
// and session.go, and nothing else decides an outcome; header.go, exchange.go, dial.go, relay.go
// and end.go do what it says and tell what came of it.
type session struct {
	listener *listener
	tally    *record.Tally // its loop's, of its forward
	sides    [2]side
	timer    timer
	details  *record.Details
	failure  *failure

	backend                           forward.Endpoint // dialled last
	peer, client, destination, source address          // source: connected from, where transparent

	id                                            uint64 // when free, sessions.free of before
	acceptedAt, headerAt, connectedAt, lastActive int64  // when it was accepted, had its header, had its backend, last moved

	index, generation uint32
	state             state
	spoof             bool // dial from the client's address
	clientCounted     bool // against the client's limit
	queued            bool // on the loop's run queue
	keepaliveSet      bool // the keepalive options are set, or never will be
	version           uint8
	headers           uint8          // read so far
	attempt           uint16         // backends tried so far: a name may have many addresses
	firstEOF          uint8          // 1 + the side that finished first
	outcome           record.Outcome // so far; the outcome in the end
	endedBy           record.Party
	endPhase          record.Phase
}

// start makes a session of a fresh connection.
func (s *session) start(a acceptedConn, id uint64, now int64) {
	*s = session{index: s.index, generation: s.generation, listener: a.listener, id: id, peer: pack(a.peer), acceptedAt: now, lastActive: now}
	s.timer.session = s
	s.sides[peer].fd, s.sides[backend].fd = int32(a.fd), -1
	s.sides[peer].noDelaySet = true
}
