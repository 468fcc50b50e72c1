package datagram

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// Replies read in one I/O batch have errors of their own. Empty replies are forwarded.
func TestErrorsInAReadBatch(t *testing.T) {
	r := one(t, plain(server))
	r.manyFlows(6)
	backs := r.backs()
	backs[0].queue = []datagram{{data: "a"}}
	backs[1].errors = []syscall.Errno{unix.ECONNREFUSED}
	backs[2].queue = []datagram{{data: ""}}
	backs[3].errors, backs[3].queue = []syscall.Errno{unix.EINTR}, []datagram{{data: "d"}}
	backs[4].errors, backs[4].queue = []syscall.Errno{unix.EHOSTUNREACH}, []datagram{{data: "e"}}
	backs[5].errors = []syscall.Errno{unix.EAGAIN}
	before := r.calls["io_submit"]
	r.turn(r.hosts[0])
	r.went(to(lb, "a"), to(lb, ""))
	if r.calls["io_submit"] == before {
		t.Error("no I/O batch was submitted")
	}
	r.settle()
	r.went(to(lb, "d"), to(lb, "e"))
	r.dropped(map[Drop]uint64{BackendRefused: 1, BackendUnreachable: 1})
	r.pass(time.Minute + time.Second)
	for _, c := range r.records {
		want := record.OK
		if c.Client == client(1) {
			want = record.BackendRefused
		}
		if c.Outcome != want {
			t.Errorf("the flow of %v ended as %v", c.Client, c.Outcome)
		}
	}
	r.clean()
}

// A reply that has arrived when its flow is evicted or cut is sent first. An ended flow is not
// read.
func TestPendingReplyIsSentBeforeTheFlowEnds(t *testing.T) {
	newcomer := func(r *rig) {
		r.listenerSocket(0).queue = append(r.listenerSocket(0).queue, datagram{peer: lb, data: at(9)})
		r.worker().receive(r.worker().listeners[0])
	}
	ends := []struct {
		name           string
		end            func(r *rig)
		arrives, ended int
	}{
		{"evicted by a new flow", func(r *rig) {
			r.relay.config.MaxFlows = 4
			newcomer(r)
		}, 4, 1},
		{"evicted by a new flow without a descriptor", func(r *rig) {
			r.limit = 1 + 4
			newcomer(r)
		}, 4, 1},
		{"evicted by another loop", func(r *rig) { r.worker().evict(nil) }, 4, 1},
		{"cut", func(r *rig) { r.worker().Cut() }, 4, 4},
		{"idle timeout", func(r *rig) {
			r.clock += int64(2 * time.Minute)
			r.worker().Alarm()
		}, 4, 0},
		{"evicted for descriptors", func(r *rig) {
			another := &flow{list: r.worker().lists[0]}
			for range 3 {
				r.worker().evictFor(another, unix.EMFILE)
			}
		}, 1, 3},
	}
	for _, row := range ends {
		t.Run(row.name, func(t *testing.T) {
			r := one(t, plain(server))
			r.manyFlows(4)
			for i, s := range r.backs() {
				s.queue = append(s.queue, datagram{data: fmt.Sprint(i)})
				r.worker().Event(r.hosts[0].watched[s.fd], unix.EPOLLIN)
			}
			row.end(r)
			r.worker().Rest()
			if len(r.records) != row.ended {
				t.Errorf("%d flows ended, want %d", len(r.records), row.ended)
			}
			if n := len(r.listenerSocket(0).sent); n != row.arrives {
				t.Errorf("%d replies arrived, want %d", n, row.arrives)
			}
			if got := r.relay.Counters().DatagramsOut; got != uint64(row.arrives) {
				t.Errorf("%d replies are counted, want %d", got, row.arrives)
			}
		})
	}
}
