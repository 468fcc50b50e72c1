package kernel

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Wait returns an event with any timeout, and nothing when a timeout has passed.
func TestWait(t *testing.T) {
	k := System()
	poller, errno := k.Poller()
	if errno != 0 {
		t.Fatal(errno)
	}
	defer k.Close(poller)
	waker, errno := k.Waker()
	if errno != 0 {
		t.Fatal(errno)
	}
	defer k.Close(waker)
	if errno := k.Watch(poller, waker, unix.EPOLLIN, 7); errno != 0 {
		t.Fatal(errno)
	}
	events := make([]unix.EpollEvent, 4)
	for _, timeout := range []time.Duration{0, 1, 1500 * time.Microsecond, 2 * time.Millisecond} {
		if n := k.Wait(poller, events, timeout); n != 0 {
			t.Errorf("%v: %d events, want none", timeout, n)
		}
	}
	k.Wake(waker)
	for _, timeout := range []time.Duration{-1, 0, 1, 1500 * time.Microsecond, time.Hour} {
		if n := k.Wait(poller, events, timeout); n != 1 || Tag(&events[0]) != 7 {
			t.Errorf("%v: %d events, want one", timeout, n)
		}
	}
}

// Without epoll_pwait2(2) a timeout is rounded up, so that a deadline has passed after it.
func TestMilliseconds(t *testing.T) {
	for d, want := range map[time.Duration]int{
		-1: -1, 0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, 2 * time.Millisecond: 2,
	} {
		if got := milliseconds(d); got != want {
			t.Errorf("%v is %d ms, want %d", d, got, want)
		}
	}
}
