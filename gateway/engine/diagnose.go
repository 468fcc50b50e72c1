package engine

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

const (
	// diagnoseTimeout bounds the plain connect that diagnoses a timeout in transparent mode.
	diagnoseTimeout = time.Second
	// diagnosisTTL is how long other connections use the result.
	diagnosisTTL = int64(5 * time.Second)
	maxDiagnoses = 1024
)

// diagnosis is the result of a plain connect to a backend.
type diagnosis struct {
	answers bool
	expires int64
}

// diagnose starts to find out why a transparent connect timed out.
func (s *session) diagnose(l *loop) {
	s.resetSide(l, peer)
	s.state = diagnosing
	if v, ok := l.cachedDiagnosis(s.backend.Addr); ok {
		s.finishDiagnosis(l, v)
		return
	}
	if !s.startPlainDial(l) {
		s.finishDiagnosis(l, false)
	}
}

// startPlainDial starts a connect to s.backend from the gateway's own address, for a diagnosis.
func (s *session) startPlainDial(l *loop) bool {
	errno, _ := s.connect(l, netip.AddrPort{})
	if errno != 0 || !l.watchSide(s, backend, interest|unix.EPOLLOUT) {
		return false
	}
	s.arm(l, diagnoseTimeout)
	return true
}

// finishDiagnosis ends a session whose transparent connect timed out. answers means that a plain
// connect succeeded.
func (s *session) finishDiagnosis(l *loop, answers bool) {
	l.cacheDiagnosis(s.backend.Addr, answers)
	outcome := record.ConnectTimeout
	if answers {
		outcome = record.NoReturnPath
		s.setReason("the backend answers the gateway's own address, " +
			"but its replies to the client do not return through the gateway")
	}
	s.endedBy = record.Timeout
	s.refuse(l, outcome, record.Dial)
}

// cachedDiagnosis returns the result of a recent plain connect to a backend.
func (l *loop) cachedDiagnosis(backend netip.AddrPort) (answers, known bool) {
	v, ok := l.diagnoses[backend]
	return v.answers, ok && l.now < v.expires
}

func (l *loop) cacheDiagnosis(backend netip.AddrPort, answers bool) {
	if len(l.diagnoses) >= maxDiagnoses {
		clear(l.diagnoses)
	}
	if _, known := l.cachedDiagnosis(backend); !known {
		l.diagnoses[backend] = diagnosis{answers: answers, expires: l.now + diagnosisTTL}
	}
}
