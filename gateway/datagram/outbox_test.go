package datagram

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A kernel, or a device, that does not segment GSO batches gets datagrams one by one.
func TestTrainsRefused(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EIO, unix.EINVAL, unix.EMSGSIZE} {
		errnos := []syscall.Errno{errno}
		if errno == unix.EMSGSIZE {
			errnos = append(errnos, errno) // one alone may mean that the path MTU decreased
		}
		r := one(t, plain(server))
		r.from(lb, a)
		s := r.back()
		s.sent, s.failing = nil, errnos
		r.from(lb, a+"aa", a+"bb", a+"c", a+"ddd")
		s.took(t, "aa", "bb", "c", "ddd")
		if s.gsoBatches != 0 {
			t.Errorf("%v: %d GSO batches", errno, s.gsoBatches)
		}
		r.from(lb, a+"aa", a+"bb")
		s.took(t, "aa", "bb")

		// And to the peer: a GSO batch that came is taken apart.
		f := r.worker().table.find(r.worker().onlyKey())
		f.bulk = true
		ls := r.listenerSocket(0)
		ls.failing = errnos
		s.queue = append(s.queue, datagram{data: "aabbc", segment: 2})
		r.settle()
		r.went(to(lb, "aa"), to(lb, "bb"), to(lb, "c"))
		s.queue = append(s.queue, datagram{data: "aabbc", segment: 2}, datagram{data: "dd"})
		r.settle()
		r.went(to(lb, "aa"), to(lb, "bb"), to(lb, "c"), to(lb, "dd"))
		if s.gsoBatches != 0 || ls.gsoBatches != 0 {
			t.Errorf("%v: %d and %d GSO batches", errno, s.gsoBatches, ls.gsoBatches)
		}
		r.dropped(nil)

		// It may have been for one peer: GSO is tried again later.
		r.pass(2 * time.Second)
		s.queue = append(s.queue, datagram{data: "aabbc", segment: 2})
		r.settle()
		if ls.gsoBatches != 1 {
			t.Errorf("%v: %d GSO batches after a while, want 1", errno, ls.gsoBatches)
		}
	}
}

// A decreased path MTU causes one retry and does not disable GSO.
func TestGSORetriedAfterMTUDecrease(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a)
	s := r.back()
	s.sent, s.failing = nil, []syscall.Errno{unix.EMSGSIZE}
	r.from(lb, a+"aa", a+"bb")
	s.took(t, "aa", "bb")
	if s.gsoBatches != 1 {
		t.Errorf("%d GSO batches, want 1", s.gsoBatches)
	}
}

// GSO batches are never longer than the kernel takes, which the scripted one checks.
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
	if n := len(r.listenerSocket(0).sent); n != 120 {
		t.Errorf("%d of 120 replies went", n)
	}
}

// When datagrams are sent one by one, an error concerns its datagram only.
func TestWithoutGSOErrorsConcernOneDatagram(t *testing.T) {
	r := one(t, plain(server))
	r.from(lb, a)
	s := r.back()
	s.sent = nil
	s.failing = []syscall.Errno{unix.EIO, 0, unix.EINTR, unix.ECONNREFUSED, 0, unix.EMSGSIZE, unix.EMSGSIZE, unix.EAGAIN}
	r.from(lb, a+"1", a+"2", a+"3", a+"4", a+"5")
	s.took(t, "1", "2", "5")
	r.dropped(map[Drop]uint64{BackendRefused: 1, TooBig: 1, BackendBusy: 1})
}
