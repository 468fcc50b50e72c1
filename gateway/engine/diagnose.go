package engine

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
	"unproxy/transparent"
)

// A transparent connect that timed out has one of three causes. Two test connections tell them
// apart:
//
//	from a test client   from the gateway   cause
//	answered             -                  concerns this client: a firewall drops its packets, or
//	                                        the backend replies to it directly
//	not answered         answered           the return path is missing
//	not answered         not answered       the backend is silent
//
// The backend's program sees neither of them: the gateway withholds the last ACK of the handshake,
// and the RST that ends the test comes before accept(2) returns the connection.

const (
	// diagnoseTimeout bounds each of the two test connections.
	diagnoseTimeout = time.Second
	// diagnosisTTL is how long other connections use the result, if they had begun to connect before:
	// the result says nothing about what has changed since.
	diagnosisTTL = 5 * time.Second
	// diagnosisPoll is how often a session checks whether another one has diagnosed its backend.
	diagnosisPoll = 50 * time.Millisecond
	maxDiagnoses  = 1024
)

// answers says whom a backend answers.
type answers uint8

const (
	answersNone   answers = iota // or not known
	answersPlain                 // the gateway's own address, but not a test client
	answersClient                // a test client
)

// diagnosis is the result of the tests of a backend.
type diagnosis struct {
	answers answers
	running bool // a session of this loop makes the tests; there is no result yet
	made    int64
	expires int64
}

// diagnose starts to find out why a transparent connect timed out. If another session of the loop
// tests the same backend, it waits for that result.
func (s *session) diagnose(l *loop) {
	s.resetSide(l, peer)
	s.state = probing
	d, known := l.diagnosis(s.backend.Addr)
	switch {
	case known && d.running:
		s.arm(l, diagnosisPoll)
		return
	case known && d.made >= s.failureDetails().began:
		s.finishDiagnosis(l, d.answers)
		return
	}
	l.setDiagnosis(s.backend.Addr, diagnosis{running: true}, 3*diagnoseTimeout)
	if !s.startTest(l, s.testClient()) {
		s.testPlainly(l)
	}
}

// testClient returns the address of a test client that is, in all likelihood, neither the session's
// client nor an address of this host.
func (s *session) testClient() netip.AddrPort {
	own := s.listener.forward.Source.Own
	var c netip.AddrPort
	for range 8 {
		c = transparent.TestClient(s.backend.Addr.Addr().Is6())
		if c.Addr() != s.source.unpack().Addr() && (own == nil || !own.Contains(c.Addr())) {
			break
		}
	}
	return c
}

// testPlainly tests the backend from the gateway's own address.
func (s *session) testPlainly(l *loop) {
	s.state = diagnosing
	if !s.startTest(l, netip.AddrPort{}) {
		s.endDiagnosis(l, answersNone)
	}
}

// startTest starts a test connection to s.backend, from source or, if that is invalid, from the
// gateway's own address.
func (s *session) startTest(l *loop, source netip.AddrPort) bool {
	s.resetSide(l, backend)
	if errno, _ := s.connect(l, source); errno != 0 || l.watchSide(s, backend, interest|unix.EPOLLOUT) != 0 {
		return false
	}
	s.arm(l, diagnoseTimeout)
	return true
}

// diagnosisEvent handles the answer to a test connection. An RST says that replies return, but not
// that the backend serves others.
func (s *session) diagnosisEvent(l *loop, events uint32) {
	failed := events&(unix.EPOLLERR|unix.EPOLLHUP) != 0
	refused := failed && l.kernel.SocketError(int(s.sides[backend].fd)) == unix.ECONNREFUSED
	switch {
	case refused:
		s.endDiagnosis(l, answersNone)
	case s.state == probing && failed:
		s.testPlainly(l)
	case failed:
		s.endDiagnosis(l, answersNone)
	case s.state == probing:
		s.endDiagnosis(l, answersClient)
	default:
		s.endDiagnosis(l, answersPlain)
	}
}

// diagnosisTimeout handles the deadline of a test connection, or of the wait for another session.
func (s *session) diagnosisTimeout(l *loop) {
	switch {
	case s.sides[backend].fd < 0:
		s.diagnose(l)
	case s.state == probing:
		s.testPlainly(l)
	default:
		s.endDiagnosis(l, answersNone)
	}
}

// endDiagnosis stores the result of the session's own tests for others, and ends the session.
func (s *session) endDiagnosis(l *loop, a answers) {
	l.setDiagnosis(s.backend.Addr, diagnosis{answers: a}, diagnosisTTL)
	s.finishDiagnosis(l, a)
}

// finishDiagnosis ends a session whose transparent connect timed out.
func (s *session) finishDiagnosis(l *loop, a answers) {
	outcome := record.ConnectTimeout
	switch a {
	case answersPlain:
		outcome = record.NoReturnPath
		s.setReason("the backend answers the gateway's own address, " +
			"but its replies to the client do not return through the gateway")
	case answersClient:
		s.setReason("the backend answers other clients; a firewall may block this one")
		s.ensureFailure().answersOthers = true
	}
	s.endedBy = record.Timeout
	s.refuse(l, outcome, record.Dial)
}

// diagnosis returns a recent diagnosis of a backend.
func (l *loop) diagnosis(backend netip.AddrPort) (d diagnosis, known bool) {
	d, known = l.diagnoses[backend]
	return d, known && l.now < d.expires
}

func (l *loop) setDiagnosis(backend netip.AddrPort, d diagnosis, ttl time.Duration) {
	if len(l.diagnoses) >= maxDiagnoses {
		clear(l.diagnoses)
	}
	d.made, d.expires = l.now, l.now+int64(ttl)
	l.diagnoses[backend] = d
}
