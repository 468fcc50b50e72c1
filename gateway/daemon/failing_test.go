package daemon

import (
	"context"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
	"unproxy/integration_test/await"
)

// A forward is not ready while any of its sockets fails. Others are not concerned.
func TestFailingSockets(t *testing.T) {
	var (
		s failing
		r readiness.State
	)
	all := []*forward.Forward{{}, {Datagrams: true}}
	for i, step := range []struct {
		event string
		of    int
		ready [2]bool
	}{
		{"accept_paused", 0, [2]bool{true, true}}, // the control
		{"accept_failed", 0, [2]bool{false, true}},
		{"accept_failed", 0, [2]bool{false, true}}, // another listener
		{"receive_failed", 1, [2]bool{false, false}},
		{"accept_recovered", 0, [2]bool{false, false}},
		{"accept_recovered", 0, [2]bool{true, false}},
		{"receive_recovered", 1, [2]bool{true, true}},
	} {
		s.note(engine.Notice{Event: step.event, Of: all[step.of], Err: unix.EINVAL}, all, &r)
		report := r.Report(2)
		if got := [2]bool{report.Ready(0), report.Ready(1)}; got != step.ready {
			t.Errorf("step %d, %s: ready %v, want %v", i, step.event, got, step.ready)
		}
	}
}

// The forward of a listener that no longer listens is not ready until it does again, and the log says
// so. The other forward is not concerned.
func TestListenerThatWasShutDown(t *testing.T) {
	d, log, closeLog := daemonOf(t, "127.0.0.1:0=127.0.0.1:1", "127.0.0.1:0=127.0.0.1:1")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.gateway.Run(ctx) }()
	fd := listenerAt(t, d.gateway.Bound()[0].Addr.Addr.Port())
	if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the forward is not ready", func() bool { return !d.readiness.Report(2).Ready(0) })
	got := d.readiness.Report(2)
	want := readiness.Reason{Word: readiness.Listeners, Detail: "a listening socket fails: accept4: invalid argument"}
	if reasons := got.Forwards[0].Reasons; !slices.Equal(reasons, []readiness.Reason{want}) || !got.Ready(1) {
		t.Errorf("reasons %v and %v, want %v and none", reasons, got.Forwards[1].Reasons, want)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the forward is ready", func() bool { return d.readiness.Report(2).Ready(0) })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	closeLog()
	for _, message := range []string{"accept failed", "accept recovered"} {
		if all := log.messages(t); !slices.Contains(all, message) {
			t.Errorf("the log lacks %q: %q", message, all)
		}
	}
}

// listenerAt returns the listening socket of this process on a port.
func listenerAt(t *testing.T, port uint16) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range all {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
			continue
		}
		bound, err := unix.Getsockname(fd)
		if at, ok := bound.(*unix.SockaddrInet4); err == nil && ok && at.Port == int(port) {
			return fd
		}
	}
	t.Fatalf("no socket listens on port %d", port)
	return -1
}
