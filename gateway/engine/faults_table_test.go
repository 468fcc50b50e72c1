package engine

import (
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
	"unproxy/integration_test/errnos"
)

// faultRow says how a method of the kernel can fail and what follows. Each method has one.
type faultRow struct {
	// errors are those that the manual page lists, and some that it does not: of security modules, of
	// seccomp filters, and of the kernel itself.
	errors []syscall.Errno
	// in has, for each state of a session in which the method is called, the outcomes. The first rule
	// with the error applies.
	in map[state][]rule
	// start and drain mean that the method is called when the engine starts or stops to accept.
	start, drain bool
	// never says why the method cannot fail.
	never string
}

// rule is a set of errors, any if it is empty, and the outcomes that fit. unaffected is that of the
// connection without the fault.
type rule struct {
	errors   []syscall.Errno
	outcomes []record.Outcome
}

const (
	unaffected = record.Outcome(record.NumOutcomes)     // the connection ends as without the fault
	unserved   = record.Outcome(record.NumOutcomes + 1) // there is no record: it was not accepted
)

func ends(outcomes ...record.Outcome) []rule { return []rule{{nil, outcomes}} }

func with(first []rule, more ...rule) []rule { return append(more, first...) }

var (
	survives = ends(unaffected)
	// established are the rules for a read or a write of an established connection.
	established = []rule{{errnos.Transient, survives[0].outcomes}, {errnos.Shortage, []record.Outcome{record.Limit}},
		{errnos.Network, []record.Outcome{record.Reset}}, {nil, []record.Outcome{record.Internal}}}
	// inHeader are the rules for reading a header: a connection that ends before it is none.
	inHeader = []rule{established[0], established[1], {errnos.Network, []record.Outcome{record.Reset, record.Empty}},
		established[3]}
	// settled are the rules for bytes that are known to be there.
	settled = with(established, rule{[]syscall.Errno{unix.EAGAIN}, []record.Outcome{record.Internal}})
	// preparing are the rules for a call before connect(2). A shortage may pass.
	preparing = []rule{{errnos.Shortage, []record.Outcome{unaffected, record.Limit}},
		{errnos.Denied, []record.Outcome{record.Permission}},
		{[]syscall.Errno{unix.EAFNOSUPPORT}, []record.Outcome{record.BackendUnreachable}},
		{[]syscall.Errno{unix.EADDRNOTAVAIL}, []record.Outcome{record.SourcePortBusy}},
		{nil, []record.Outcome{record.Internal}}}
	// connecting are the rules for connect(2) and what follows it.
	connecting = []rule{{[]syscall.Errno{unix.EINTR, unix.EINPROGRESS}, []record.Outcome{unaffected}},
		{errnos.Shortage, []record.Outcome{unaffected, record.Limit}},
		{errnos.Denied, []record.Outcome{record.Permission}},
		{[]syscall.Errno{unix.ECONNREFUSED, unix.ECONNRESET}, []record.Outcome{record.BackendRefused}},
		{[]syscall.Errno{unix.ETIMEDOUT}, []record.Outcome{record.ConnectTimeout}},
		{[]syscall.Errno{unix.EAGAIN}, []record.Outcome{record.Limit}},
		{[]syscall.Errno{unix.EADDRINUSE, unix.EADDRNOTAVAIL}, []record.Outcome{record.Limit, record.BackendUnreachable}},
		{nil, []record.Outcome{record.BackendUnreachable}}}
	// diagnosed are the rules for a test connection: the one that it explains has timed out.
	diagnosed = ends(unaffected, record.ConnectTimeout, record.NoReturnPath)
)

// faultRows has a row for each method of [kernel.Kernel] and [kernel.Batch].
var faultRows = map[string]faultRow{
	"Now":         {never: "it reads a clock in memory (vdso(7))"},
	"Reset":       {never: "the descriptor is closed whatever the calls return (close(2))"},
	"Close":       {never: "the descriptor is closed whatever the call returns (close(2))"},
	"Wake":        {never: "an eventfd whose counter is full is readable already (eventfd(2))"},
	"Woken":       {never: "an eventfd that stays readable wakes the loop again (eventfd(2))"},
	"Unwatch":     {never: "an error means that the descriptor is not registered (epoll_ctl(2))"},
	"Batch.Close": {never: "nothing is left to do after an error (io_destroy(2))"},

	"Poller":   {start: true, errors: errnos.Poller},
	"Waker":    {start: true, errors: errnos.Eventfd},
	"Batch":    {start: true, errors: errnos.Batch},
	"BindPath": {start: true, errors: errnos.BindPath},
	"Listen":   {start: true, errors: errnos.Listen},

	"RefuseHandshakes": {drain: true, errors: errnos.Option},
	"Duplicate":        {drain: true, errors: errnos.Duplicate},

	"Socket": {start: true, errors: errnos.Socket, in: map[state][]rule{
		dialling: preparing, probing: diagnosed, diagnosing: diagnosed}},
	"SetOption": {start: true, errors: errnos.Option, in: map[state][]rule{
		reading:  survives, // SO_OOBINLINE of a unix socket
		dialling: preparing,
		probing:  diagnosed, diagnosing: diagnosed, relaying: survives}},
	"Bind": {start: true, errors: errnos.Bind, in: map[state][]rule{probing: diagnosed,
		dialling: with(preparing, rule{[]syscall.Errno{unix.EACCES}, // another port is tried
			[]record.Outcome{record.Permission, unaffected}})}},
	"SetClient": {errors: errnos.Option, in: map[state][]rule{
		dialling: with(preparing, rule{[]syscall.Errno{unix.ENOPROTOOPT}, []record.Outcome{record.TOAUnattached}})}},
	"ClientState": {errors: errnos.Of(errnos.Name, []syscall.Errno{unix.EOPNOTSUPP, unix.EPROTO, unix.ENOPROTOOPT}),
		in: map[state][]rule{dialling: { // it is asked again
			{[]syscall.Errno{unix.EOPNOTSUPP, unix.EPROTO, unix.ENOPROTOOPT, unix.EPERM},
				[]record.Outcome{unaffected, record.TOAUnattached}},
			{errnos.Shortage, []record.Outcome{unaffected, record.Limit}},
			{nil, []record.Outcome{unaffected, record.Internal}}}}},
	"LocalAddr": {start: true, errors: errnos.Name, in: map[state][]rule{
		reading: survives,
		dialling: with(preparing, rule{nil,
			[]record.Outcome{record.Internal, record.Limit, record.Permission, unaffected}})}},
	"HasSource": {errors: []syscall.Errno{unix.EMFILE}, in: map[state][]rule{
		dialling: ends(unaffected, record.Limit)}}, // it is not known whether an address or a port lacks

	"Accept": {errors: errnos.Accept, drain: true, in: map[state][]rule{
		free: survives, reading: survives, closing: survives}},
	"Connect": {errors: errnos.Connect, in: map[state][]rule{
		dialling: connecting, probing: diagnosed, diagnosing: diagnosed}},
	"ConnectPath": {errors: errnos.ConnectPath,
		in: map[state][]rule{dialling: connecting}},
	"SocketError": {errors: errnos.Error, in: map[state][]rule{
		dialling: connecting, probing: diagnosed, diagnosing: diagnosed, relaying: established}},

	"Recv": {errors: errnos.Recv, in: map[state][]rule{
		reading: inHeader, closing: survives, relaying: established}},
	"Peek":    {errors: errnos.Recv, in: map[state][]rule{relaying: established}},
	"Discard": {errors: errnos.Recv, in: map[state][]rule{relaying: settled}},
	"Send": {errors: errnos.Send, in: map[state][]rule{
		dialling: with(connecting, rule{errnos.Of(errnos.Transient, []syscall.Errno{unix.ENOTCONN}),
			survives[0].outcomes}),
		relaying: established}},
	"Batch.Recv": {errors: errnos.Recv, in: map[state][]rule{reading: inHeader, relaying: established}},
	"Batch.Send": {errors: errnos.Send, in: map[state][]rule{relaying: established}},
	"Pipe": {errors: errnos.Pipe,
		in: map[state][]rule{relaying: survives}},
	"Splice": {errors: errnos.Splice, in: map[state][]rule{
		relaying: with(established, rule{refusals[:5], []record.Outcome{unaffected}}, // it is copied from then on
			rule{refusals[5:], []record.Outcome{record.Reset, unaffected}})}},
	"ReadPipe": {errors: errnos.Read, in: map[state][]rule{relaying: settled}},
	"Shutdown": {errors: errnos.Shutdown, in: map[state][]rule{
		closing:  survives, // close(2) sends the FIN
		relaying: with(established, rule{[]syscall.Errno{unix.ENOTCONN}, []record.Outcome{record.Reset, unaffected}})}},

	"Watch": {start: true, errors: errnos.Epoll, in: map[state][]rule{
		reading: ends(record.Internal), dialling: preparing, probing: diagnosed, diagnosing: diagnosed}},
	"Rewatch": {errors: errnos.Epoll, in: map[state][]rule{relaying: established}},
	"Wait": {errors: []syscall.Errno{unix.EINTR}, in: map[state][]rule{
		free: survives, reading: survives, closing: survives, dialling: survives, probing: survives,
		diagnosing: survives, relaying: survives}},
}
