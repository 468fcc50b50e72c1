package engine

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
	"unproxy/transparent"
)

// A transparent connect that times out is followed by a plain one, which distinguishes an
// unresponsive backend from a missing return path. The client is reset before that.
func TestDiagnosis(t *testing.T) {
	rows := []struct {
		name    string
		plain   plan
		outcome record.Outcome
	}{
		{"answers at once", plan{}, record.NoReturnPath},
		{"answers", plan{waits: 1}, record.NoReturnPath},
		{"is silent", silent, record.ConnectTimeout},
		{"is unreachable", plan{errno: unix.ENETUNREACH}, record.ConnectTimeout},
		{"becomes unreachable", plan{waits: 1, result: unix.EHOSTUNREACH}, record.ConnectTimeout},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := newForwardRig(t, transparently(plainForward(serverA)))
			r.plans[serverA] = []plan{silent, row.plain, silent}
			from := r.open(header + "payload")
			r.advance(6*time.Second + 10*time.Millisecond)
			if !from.gotRST {
				t.Error("the client still waits")
			}
			r.advance(time.Second)
			c := r.expectEnd(1, row.outcome, record.Dial, record.Timeout)
			if !c.Transparent || c.Backend != serverA.Addr {
				t.Errorf("transparent %v, backend %v", c.Transparent, c.Backend)
			}
			if len(r.dials) != 2 || r.dials[0].source != client4 || r.dials[1].source.IsValid() {
				t.Fatalf("dialled %+v", r.dials)
			}
			if got := r.dials[1].far.received; len(got) != 0 {
				t.Errorf("the plain connection carried %q", got)
			}
			r.expectClean()
		})
	}
}

// For five seconds other connections use a diagnosis and make no plain connect of their own.
func TestDiagnosisIsCached(t *testing.T) {
	r := newForwardRig(t, transparently(plainForward(serverA)))
	r.plans[serverA] = []plan{silent, silent, {}, silent}
	r.open(header)
	r.advance(4 * time.Second)
	r.open(header)
	r.advance(2100 * time.Millisecond) // the first is diagnosed
	r.expectEnd(1, record.NoReturnPath, record.Dial, record.Timeout)
	r.open(header)
	r.advance(4 * time.Second) // the second uses the cached diagnosis
	r.expectEnd(2, record.NoReturnPath, record.Dial, record.Timeout)
	if len(r.dials) != 4 {
		t.Errorf("%d connects, want 4", len(r.dials))
	}
	r.advance(5 * time.Second) // the diagnosis has expired, and a plain connect now times out, too
	r.expectEnd(3, record.ConnectTimeout, record.Dial, record.Timeout)
	if len(r.dials) != 5 {
		t.Errorf("%d connects, want 5", len(r.dials))
	}
	r.expectClean()
}

// Only transparent connections are diagnosed, and only if the last attempt timed out.
func TestNothingToDiagnose(t *testing.T) {
	f := transparently(plainForward(serverA, serverB))
	r := newForwardRig(t, f)
	r.plans[serverA], r.plans[serverB] = []plan{silent}, []plan{refused}
	r.open(header)
	r.advance(7 * time.Second)
	r.expectEnd(1, record.BackendRefused, record.Dial, record.Backend)
	f = transparently(plainForward(serverA6))
	f.Source.FamilyMismatch = transparent.Plain
	r = newForwardRig(t, f)
	r.plans[serverA6] = []plan{silent}
	r.open(header)
	r.advance(7 * time.Second)
	r.expectEnd(1, record.ConnectTimeout, record.Dial, record.Timeout)
	if len(r.dials) != 1 {
		t.Errorf("%d connects", len(r.dials))
	}
}

// The client's last bytes arrive in the same batch of events as the deadline that resets it. They
// say nothing about the backend.
func TestEventOfResetPeerDuringDiagnosis(t *testing.T) {
	r := newForwardRig(t, transparently(plainForward(serverA)))
	r.plans[serverA] = []plan{silent}
	from := r.open(header)
	from.deliver([]byte("payload"))
	r.clock += int64(7 * time.Second)
	r.settle()
	r.advance(2 * time.Second)
	r.expectEnd(1, record.ConnectTimeout, record.Dial, record.Timeout)
	r.expectClean()
}

// An answer in the same batch of events as the deadline of its attempt counts, and is not taken for
// an answer of the next backend.
func TestAnswerAtDialDeadline(t *testing.T) {
	for _, answer := range []unix.Errno{0, unix.ECONNREFUSED} {
		r := newForwardRig(t, plainForward(serverA, serverB))
		r.plans[serverA], r.plans[serverB] = []plan{{waits: -1, result: answer}}, []plan{silent}
		from := r.open(header + "payload")
		r.pending[0].plan.waits = 1
		r.clock += int64(4 * time.Second)
		r.settle()
		if answer == 0 {
			finishBoth(r, from)
			c := r.expectEnd(1, record.OK, record.Relay, record.Client)
			if c.Backend != serverA.Addr || string(r.dials[0].far.received) != "payload" {
				t.Errorf("joined %v, which got %q", c.Backend, r.dials[0].far.received)
			}
			continue
		}
		r.advance(4 * time.Second)
		r.expectEnd(1, record.ConnectTimeout, record.Dial, record.Timeout)
		if len(r.dials) != 2 {
			t.Errorf("dialled %v", r.dialOrder())
		}
	}
}
