package datagram

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A kernel, or a device, that cuts no trains apart gets datagrams one by one.
func TestTrainsRefused(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EIO, unix.EINVAL, unix.EMSGSIZE} {
		errnos := []syscall.Errno{errno}
		if errno == unix.EMSGSIZE {
			errnos = append(errnos, errno) // once may be of a path that got narrower
		}
		r := one(t, plain(server))
		r.from(lb, a)
		s := r.back()
		s.sent, s.failing = nil, errnos
		r.from(lb, a+"aa", a+"bb", a+"c", a+"ddd")
		s.took(t, "aa", "bb", "c", "ddd")
		if s.trains != 0 {
			t.Errorf("%v: %d trains", errno, s.trains)
		}
		r.from(lb, a+"aa", a+"bb")
		s.took(t, "aa", "bb")

		// And to the peer: a train that came is taken apart.
		f := r.worker().table.find(r.worker().onlyKey())
		f.bulk = true
		ls := r.front(0)
		ls.failing = errnos
		s.queue = append(s.queue, datagram{data: "aabbc", segment: 2})
		r.settle()
		r.went(to(lb, "aa"), to(lb, "bb"), to(lb, "c"))
		s.queue = append(s.queue, datagram{data: "aabbc", segment: 2}, datagram{data: "dd"})
		r.settle()
		r.went(to(lb, "aa"), to(lb, "bb"), to(lb, "c"), to(lb, "dd"))
		if s.trains != 0 || ls.trains != 0 {
			t.Errorf("%v: %d and %d trains", errno, s.trains, ls.trains)
		}
		r.dropped(nil)

		// It may have been for one peer: replies are tried anew by and by.
		r.pass(2 * time.Second)
		s.queue = append(s.queue, datagram{data: "aabbc", segment: 2})
		r.settle()
		if ls.trains != 1 {
			t.Errorf("%v: %d trains after a while, want 1", errno, ls.trains)
		}
	}
}

// A path that got narrower costs nothing but another try.
func TestTrainsTriedAgain(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a)
	s := r.back()
	s.sent, s.failing = nil, []syscall.Errno{unix.EMSGSIZE}
	r.from(lb, a+"aa", a+"bb")
	s.took(t, "aa", "bb")
	if s.trains != 1 {
		t.Errorf("%d trains, want 1", s.trains)
	}
}

// Trains are never longer than the kernel takes, which the scripted one checks.
func TestLongTrains(t *testing.T) {
	r := one(t, plain(server))
	var in, out []string
	for i := range 60 {
		text := strings.Repeat(string(rune('A'+i)), 1400)
		in, out = append(in, a+text), append(out, text)
	}
	r.from(lb, in...)
	s := r.back()
	s.took(t, out...)
	r.worker().table.find(r.worker().onlyKey()).bulk = true
	for range 3 {
		s.queue = append(s.queue, datagram{data: strings.Repeat("ab", 40), segment: 2})
	}
	r.settle()
	if n := len(r.front(0).sent); n != 120 {
		t.Errorf("%d of 120 replies went", n)
	}
}

// One by one, each meets its own error.
func TestTrainsRefusedAndMore(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a)
	s := r.back()
	s.sent = nil
	s.failing = []syscall.Errno{unix.EIO, 0, unix.EINTR, unix.ECONNREFUSED, 0, unix.EMSGSIZE, unix.EMSGSIZE, unix.EAGAIN}
	r.from(lb, a+"1", a+"2", a+"3", a+"4", a+"5")
	s.took(t, "1", "2", "5")
	r.dropped(map[Drop]uint64{BackendRefused: 1, TooBig: 1, BackendBusy: 1})
}
