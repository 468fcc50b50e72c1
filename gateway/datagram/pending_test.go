package datagram

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// Replies that are read together meet errors one by one, and empty ones are
// replies as well.
func TestErrorsAmongReplies(t *testing.T) {
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
		t.Error("nothing was read together")
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

// A reply that is there when its flow gives way, or is cut, reaches the peer
// first; and nobody reads from what has ended.
func TestEndsBeforeItsReplyIsRead(t *testing.T) {
	newcomer := func(r *rig) {
		r.listenerSocket(0).queue = append(r.listenerSocket(0).queue, datagram{peer: lb, data: at(9)})
		r.worker().receive(r.worker().listeners[0])
	}
	ends := []struct {
		name           string
		end            func(r *rig)
		arrives, ended int
	}{
		{"gives way to a new one", func(r *rig) {
			r.relay.config.MaxFlows = 4
			newcomer(r)
		}, 4, 1},
		{"gives way to a new one that lacks a descriptor", func(r *rig) {
			r.limit = 1 + 4
			newcomer(r)
		}, 4, 1},
		{"gives way to one of another loop", func(r *rig) { r.worker().evict(nil) }, 4, 1},
		{"cut", func(r *rig) { r.worker().Cut() }, 4, 4},
		{"its time is over, as far as was known", func(r *rig) {
			r.clock += int64(2 * time.Minute)
			r.worker().Alarm()
		}, 4, 0},
		{"gives way for want of descriptors", func(r *rig) {
			r.worker().evictFor(nil)
			r.worker().evictFor(nil)
			r.worker().evictFor(nil)
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
				t.Errorf("%d are counted, want %d", got, row.arrives)
			}
		})
	}
}
