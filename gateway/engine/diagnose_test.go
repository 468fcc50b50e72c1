package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
	"unproxy/transparent"
)

// A transparent connect that times out is followed by one from a test client and, unless that is
// answered, by a plain one. They distinguish a client that is not answered from a missing return
// path, and that from a silent backend. The client is reset before that. The backend's program sees
// neither test: they withhold the last ACK of the handshake, and end with an RST.
func TestDiagnosis(t *testing.T) {
	var returned = plan{result: unix.ECONNREFUSED}
	rows := []struct {
		name          string
		client, plain plan // of the two tests
		tests         int
		outcome       record.Outcome
		others        bool
	}{
		{"answers a client at once", plan{}, plan{}, 1, record.ConnectTimeout, true},
		{"answers a client", plan{waits: 1}, plan{}, 1, record.ConnectTimeout, true},
		{"refuses a client", returned, plan{}, 1, record.ConnectTimeout, false},
		{"refuses a client later", plan{waits: 1, result: unix.ECONNREFUSED}, plan{}, 1, record.ConnectTimeout, false},
		{"answers the gateway at once", silent, plan{}, 2, record.NoReturnPath, false},
		{"answers the gateway", silent, plan{waits: 1}, 2, record.NoReturnPath, false},
		{"answers the gateway, no route for clients", plan{errno: unix.ENETUNREACH}, plan{}, 2, record.NoReturnPath, false},
		{"answers the gateway, clients prohibited", plan{waits: 1, result: unix.EACCES}, plan{}, 2, record.NoReturnPath, false},
		{"refuses the gateway", silent, returned, 2, record.ConnectTimeout, false},
		{"is silent", silent, silent, 2, record.ConnectTimeout, false},
		{"is unreachable", silent, plan{errno: unix.ENETUNREACH}, 2, record.ConnectTimeout, false},
		{"becomes unreachable", silent, plan{waits: 1, result: unix.EHOSTUNREACH}, 2, record.ConnectTimeout, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := newForwardRig(t, transparently(plainForward(serverA)))
			r.plans[serverA] = []plan{silent, row.client, row.plain, silent}
			from := r.open(header + "payload")
			r.advance(6*time.Second + 10*time.Millisecond)
			if !from.gotRST {
				t.Error("the client was not reset")
			}
			r.advance(2*time.Second + 20*time.Millisecond)
			c := r.expectEnd(1, row.outcome, record.Dial, record.Timeout)
			if !c.Transparent || c.Backend != serverA.Addr || c.AnswersOthers != row.others {
				t.Errorf("transparent %v, backend %v, answers others %v", c.Transparent, c.Backend, c.AnswersOthers)
			}
			if len(r.dials) != 1+row.tests || r.dials[0].source != client4 {
				t.Fatalf("dialled %+v", r.dials)
			}
			for i, d := range r.dials[1:] {
				if want := i == 0; d.source.IsValid() != want || want && !transparent.TestNetwork(false).Contains(d.source.Addr()) {
					t.Errorf("test %d came from %v", i, d.source)
				}
				if len(d.far.received) != 0 {
					t.Errorf("test %d sent %q", i, d.far.received)
				}
				if d.far.connected && (!d.far.gotRST || !slices.Contains(d.far.options, [3]int{unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0})) {
					t.Errorf("test %d: the backend's program sees it", i)
				}
			}
			r.expectClean()
		})
	}
}

// For five seconds other connections use a diagnosis and make no tests of their own.
func TestDiagnosisIsCached(t *testing.T) {
	r := newForwardRig(t, transparently(plainForward(serverA)))
	r.plans[serverA] = []plan{silent, silent, silent, {}, silent}
	r.open(header)
	r.advance(4 * time.Second)
	r.open(header)
	r.advance(3100 * time.Millisecond) // the first is diagnosed
	r.expectEnd(1, record.NoReturnPath, record.Dial, record.Timeout)
	r.open(header)
	r.advance(3 * time.Second) // the second uses the cached diagnosis
	r.expectEnd(2, record.NoReturnPath, record.Dial, record.Timeout)
	if len(r.dials) != 5 {
		t.Errorf("%d connects, want 5", len(r.dials))
	}
	for range 60 { // the diagnosis expires, and the tests now time out, too
		r.advance(100 * time.Millisecond)
	}
	r.expectEnd(3, record.ConnectTimeout, record.Dial, record.Timeout)
	if len(r.dials) != 7 {
		t.Errorf("%d connects, want 7", len(r.dials))
	}
	r.expectClean()
}

// Connections that time out together make the tests of their backend once. If the one that makes
// them is cut, another one makes them.
func TestDiagnosisIsShared(t *testing.T) {
	for _, cut := range []bool{false, true} {
		r := newForwardRig(t, transparently(plainForward(serverA)))
		r.plans[serverA] = []plan{silent}
		for range 10 {
			r.open(header)
		}
		r.advance(6*time.Second + 10*time.Millisecond)
		if len(r.dials) != 11 {
			t.Fatalf("%d connects, want 10 and one test", len(r.dials))
		}
		tests, ended := 2, 10
		if cut {
			for s := range r.loop().sessions.live() {
				if s.sides[backend].fd >= 0 {
					s.resetByOperator(r.loop())
					break
				}
			}
			tests = 3
		}
		for range 60 {
			r.advance(100 * time.Millisecond)
		}
		if len(r.records) != ended || len(r.dials) != 10+tests {
			t.Errorf("cut %v: %d connections have ended after %d connects, want %d after %d",
				cut, len(r.records), len(r.dials), ended, 10+tests)
		}
		r.expectClean()
	}
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
		t.Errorf("%d connects, want 1", len(r.dials))
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
				t.Errorf("connected to %v, which received %q", c.Backend, r.dials[0].far.received)
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

// A diagnosis is no evidence for a connection that began after it: meanwhile the return path may have
// broken, or have been restored.
func TestDiagnosisIsOfTheConnectionsTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		tests [2][]plan // of the two connections, after their own connects
		want  [2]record.Outcome
	}{
		{"the rules are deleted", [2][]plan{{{}}, {silent, {}}}, [2]record.Outcome{record.ConnectTimeout, record.NoReturnPath}},
		{"the rules are back", [2][]plan{{silent, {}}, {{}}}, [2]record.Outcome{record.NoReturnPath, record.ConnectTimeout}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := transparently(plainForward(serverA))
			f.ConnectTimeout = 300 * time.Millisecond
			r := newForwardRig(t, f)
			for i, tests := range tt.tests {
				r.plans[serverA] = append([]plan{silent}, tests...)
				r.open(header)
				for range 16 {
					r.advance(100 * time.Millisecond)
				}
				c := r.expectEnd(i+1, tt.want[i], record.Dial, record.Timeout)
				if says := strings.Contains(c.Reason, "answers other clients"); says != (tt.want[i] == record.ConnectTimeout) {
					t.Errorf("connection %d: %q", i, c.Reason)
				}
			}
			r.expectClean()
		})
	}
}
