package datagram

import (
	"fmt"
	"testing"
	"time"

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
