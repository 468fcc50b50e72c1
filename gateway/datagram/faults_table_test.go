package datagram

import (
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/errnos"
)

// faultRow says how a method of the kernel can fail and what follows. Each method has one.
type faultRow struct {
	errors []syscall.Errno
	// opening and relaying have the rules for a victim without and with flows. A flow that begins is one.
	opening, relaying []rule
	start             bool   // the method is called when a worker is created
	handover          bool   // it is called when the sockets are passed on
	maybe             bool   // the words need not follow, because another call is made instead
	never             string // why the method cannot fail
}

// rule is a set of errors, any if it is empty, and the words for what follows: outcomes of flows, and
// reasons for drops. Without words, nothing follows.
type rule struct {
	errors []syscall.Errno
	words  []string
}

func follows(errors []syscall.Errno, words ...string) rule { return rule{errors, words} }

var (
	unnoticed = []rule{{}}
	// preparing are the rules for a call before connect(2): for lack of resources another flow ends.
	preparing = []rule{
		follows(errnos.Shortage, "limit"),
		follows(errnos.Denied, "permission"),
		follows([]syscall.Errno{unix.EAFNOSUPPORT, unix.EADDRNOTAVAIL}, "backend_unreachable", "source_port_busy"),
		follows([]syscall.Errno{unix.EAGAIN}, "limit"),
		follows(nil, "internal"),
	}
	connecting = []rule{
		follows(errnos.Shortage, "limit"),
		follows(errnos.Denied, "permission"),
		follows([]syscall.Errno{unix.EAGAIN, unix.EADDRINUSE}, "limit", "source_port_busy"),
		follows([]syscall.Errno{unix.ECONNREFUSED, unix.ECONNRESET}, "backend_refused"),
		follows([]syscall.Errno{unix.EADDRNOTAVAIL}, "source_port_busy", "backend_unreachable"),
		follows(nil, "backend_unreachable", "internal"), // there is no connect_timeout among the reasons
	}
	// reading are the rules for a read of a reply.
	reading = []rule{
		follows(errnos.Transient),
		follows([]syscall.Errno{unix.EMSGSIZE}),
		follows([]syscall.Errno{unix.ECONNREFUSED}, "backend_refused"),
		follows(errnos.Network, "backend_unreachable"),
		follows(errnos.Shortage, "limit"),
		follows(nil, "internal"),
	}
	// writing are the rules for a write, in either direction. One that fails once is repeated.
	writing = []rule{
		follows([]syscall.Errno{unix.EINTR}),
		follows([]syscall.Errno{unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM}, "backend_busy", "peer_busy"),
		follows([]syscall.Errno{unix.EMSGSIZE}, "too_big"),
		follows(errnos.Denied, "permission"),
		follows([]syscall.Errno{unix.ECONNREFUSED}, "backend_refused", "peer_unreachable"),
		// EINVAL is that of a route lookup.
		follows(errnos.Of(errnos.Network, []syscall.Errno{unix.EINVAL}), "backend_unreachable", "peer_unreachable"),
		follows(nil, "internal"),
	}
)

// faultRows has a row for each method of [Kernel] and [kernel.Batch], and for Host.Watch.
var faultRows = map[string]faultRow{
	"Close":       {never: "the descriptor is closed whatever the call returns (close(2))"},
	"Batch.Close": {never: "nothing is left to do after an error (io_destroy(2))"},

	"Batch":     {start: true, errors: errnos.Batch},
	"Socket":    {start: true, errors: errnos.Socket, relaying: preparing},
	"SetOption": {start: true, errors: errnos.Option, relaying: preparing},
	"Bind":      {start: true, errors: errnos.Bind, relaying: preparing},
	"LocalAddr": {start: true, errors: errnos.Name, relaying: unnoticed},
	"Overflows": {errors: errnos.Option, relaying: unnoticed},
	"Duplicate": {handover: true, errors: errnos.Duplicate},

	"Connect":    {errors: errnos.Connect, relaying: connecting},
	"Host.Watch": {errors: errnos.Epoll, relaying: preparing},
	// Receive fails for a listener, which waits, or for a flow.
	"Receive":    {errors: errnos.Recv, maybe: true, opening: unnoticed, relaying: reading},
	"Read":       {errors: errnos.Recv, relaying: reading},
	"Batch.Recv": {errors: errnos.Recv, relaying: reading},
	"Send":       {errors: errnos.Send, relaying: writing},
	"Write":      {errors: errnos.Send, relaying: writing},
	"Batch.Send": {errors: errnos.Send, maybe: true, relaying: writing}, // Write repeats it
}
