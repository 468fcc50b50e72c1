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
	free       state = iota // not in use
	reading                 // for the header
	closing                 // for the peer's FIN after ours
	dialling                // for the backend
	probing                 // for a connect as a test client, after a transparent one timed out
	diagnosing              // for a plain connect, after that
	relaying                // for either side
)

// String returns the name that [Session.State] uses.
func (s state) String() string {
	return [...]string{
		free: "free", reading: "header", closing: "closing", dialling: "dialling",
		probing: "diagnosing", diagnosing: "diagnosing", relaying: "relaying",
	}[s]
}

// The two sides of a session: indices of session.sides, and kinds of event tags.
const (
	peer    = tagPeer
	backend = tagBackend
)

const (
	// interest is the set of events that a socket is registered for, edge-triggered. A backend's
	// socket also has EPOLLOUT from the start, which reports that it is connected. A peer's socket
	// gets it when a write has blocked.
	interest = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET
	// closeTimeout is how long a peer may take to close after the gateway has.
	closeTimeout = 5 * time.Second
	// resourceTimeout is how long a session waits for a descriptor while no session of its loop
	// ends. Then it ends itself, which frees one.
	resourceTimeout = 2 * time.Second
)

// session is one connection through the gateway. trust.go and states.go are its state machine and
// decide its outcome. header.go, iobatch.go, dial.go, relay.go and end.go carry that out and report
// results.
type session struct {
	listener *listener
	tally    *record.Tally // the loop's counters of the forward
	sides    [2]side
	timer    timer
	details  *record.Details
	failure  *failure

	backend forward.Endpoint // dialled last

	peer, client, destination address
	source                    address // that the backend sees; invalid if the kernel chooses it

	id uint64 // of a free session: the next entry of sessionPool.free

	// Times of the kernel's clock. headerAt and connectedAt are 0 until then.
	acceptedAt, headerAt, connectedAt, lastActive int64

	index, generation uint32
	flows             uint32 // in flowPool; 0: none, it was never in bulk
	state             state
	option            clientOption   // whether and how the backend must see the client
	clientCounted     bool           // in forwardState.clients
	queued            bool           // on the loop's run queue
	keepaliveSet      bool           // or not needed
	version           uint8          // of the header
	command           record.Command // of the header
	headers           uint8          // read so far
	firstEOF          uint8          // 1 + the side that sent its FIN first
	outcome           record.Outcome // the latest, until the session ends
	endedBy           record.Party
	endPhase          record.Phase
}

// start initialises a session for an accepted connection.
func (s *session) start(a acceptedConn, id uint64, now int64) {
	*s = session{
		index: s.index, generation: s.generation, listener: a.listener, id: id, peer: pack(a.peer),
		acceptedAt: now, lastActive: now, state: reading,
	}
	s.timer.session = s
	s.sides[peer].fd, s.sides[backend].fd = int32(a.fd), -1
	s.sides[peer].noDelaySet = true
	s.sides[peer].shortReads = !a.peer.IsValid()
}
