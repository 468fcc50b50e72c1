package datagram

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// Datagrams that are queued when a flow's timeout passes keep the flow, however many others precede
// them: the process may have been stopped.
func TestQueuedDatagramsCountBeforeTheTimeout(t *testing.T) {
	for _, waiting := range []int{0, 1, receiveBudget * batchSize, 3000} {
		t.Run(fmt.Sprint(waiting), func(t *testing.T) {
			r := one(t, plain(server))
			r.from(lb, v2(clientA, dest4)+"first", v2(clientB, dest4)+"first")
			r.clock += int64(2 * time.Minute)
			var all []string
			for range waiting {
				all = append(all, v2(clientB, dest4)+"more")
			}
			r.from(lb, append(all, v2(clientA, dest4)+"last")...)
			r.pass(time.Second)
			for _, c := range r.records {
				if c.Client == clientA || waiting > 0 {
					t.Errorf("the flow of %v ended", c.Client)
				}
			}
			if waiting == 0 { // the control: no datagram of client B was queued
				r.ended(1, record.OK, record.Timeout)
			}
		})
	}
}

func TestQueuedRepliesCountBeforeTheTimeout(t *testing.T) {
	for _, answers := range []int{0, 1, 100} {
		r := one(t, plain(server))
		r.from(lb, v2(clientA, dest4)+"question")
		r.clock += int64(2 * time.Minute)
		r.answer(r.back(), make([]string, answers)...)
		if ended := len(r.records) > 0; ended && answers > 0 {
			t.Errorf("the flow ended, %d replies waited", answers)
		}
		r.settle()
		if len(r.records) == 0 && answers == 0 {
			t.Error("an idle flow did not end")
		}
	}
}

// Idle flows end even if the listener's queue is never empty.
func TestBusyListenerDoesNotKeepIdleFlows(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, v2(clientA, dest4)+"first")
	r.clock += int64(2 * time.Minute)
	for range 3 * mostPostponed {
		for range receiveBudget * batchSize {
			r.listenerSocket(0).queue = append(r.listenerSocket(0).queue, datagram{peer: lb, data: v2(clientB, dest4) + "flood"})
		}
		r.turn(r.hosts[0])
		r.clock++
	}
	r.settle()
	if c := r.last(1); c.Client != clientA {
		t.Errorf("the flow of %v ended", c.Client)
	}
}

// A listener that fails is reported once, and reported again when its queue turns out to be empty: no
// datagram must come for that.
func TestListenerRecoversWithoutDatagram(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EBADF, unix.EINVAL} {
		f := plain(server)
		r := one(t, f)
		s := r.listenerSocket(0)
		for range 3 * mostFailures {
			s.errors = append(s.errors, errno)
		}
		r.settle()
		for left := len(s.errors); left > 0; left = len(s.errors) {
			r.pass(2 * time.Duration(receivePause))
			if len(s.errors) == left {
				t.Fatalf("%v: the listener is not tried again", errno)
			}
		}
		if n := r.notices; len(n) != 1 || n[0].Event != "receive_failed" || n[0].Of != f || !errors.Is(n[0].Err, errno) {
			t.Errorf("%v: notices %+v, want one of the failure", errno, n)
		}
		r.pass(2 * time.Duration(receivePause))
		if n := r.notices; len(n) != 2 || n[1].Event != "receive_recovered" || n[1].Of != f {
			t.Errorf("%v: notices %+v, want the failure and the recovery", errno, n)
		}
		r.from(lb, v2(clientA, dest4)+"one")
		r.back().took(t, "one")
	}
}
