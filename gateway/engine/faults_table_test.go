package engine

import (
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
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

func errnos(lists ...[]syscall.Errno) []syscall.Errno {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

var (
	transient = []syscall.Errno{unix.EAGAIN, unix.EINTR}
	shortage  = []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ENOSPC}
	denied    = []syscall.Errno{unix.EPERM, unix.EACCES}
	// network are the errors of an established connection (tcp(7), ip(7), icmp_err_convert).
	network = []syscall.Errno{unix.ECONNRESET, unix.EPIPE, unix.ETIMEDOUT, unix.ECONNREFUSED, unix.ECONNABORTED,
		unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN, unix.ENONET, unix.EPROTO,
		unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EMSGSIZE, unix.EACCES, unix.ENOTCONN}
	badCall  = []syscall.Errno{unix.EBADF, unix.EFAULT, unix.EINVAL, unix.ENOTSOCK}
	unlisted = []syscall.Errno{unix.EPERM, unix.ENOSYS, unix.EIO} // of a seccomp filter or a fault

	recvErrors = errnos(transient, badCall, unlisted, network, []syscall.Errno{unix.ENOMEM, unix.ENOBUFS})
	sendErrors = errnos(recvErrors, []syscall.Errno{unix.EALREADY, unix.EDESTADDRREQ, unix.EISCONN})
	// socketErrors are those of socket(2), optionErrors of setsockopt(2) and getsockopt(2).
	socketErrors = errnos(badCall, unlisted, shortage[:4], denied,
		[]syscall.Errno{unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT})
	optionErrors = errnos(badCall, unlisted, []syscall.Errno{unix.ENOPROTOOPT, unix.ENOMEM, unix.EINTR})
	bindErrors   = errnos(badCall, unlisted, denied, []syscall.Errno{unix.EADDRNOTAVAIL, unix.EAGAIN, unix.EINTR,
		unix.ENOMEM})
	pathErrors = []syscall.Errno{unix.EADDRINUSE, unix.EACCES, unix.ELOOP, unix.ENAMETOOLONG, unix.ENOENT,
		unix.ENOMEM, unix.ENOTDIR, unix.EROFS, unix.EINVAL}
	nameErrors  = errnos(badCall, unlisted, []syscall.Errno{unix.ENOBUFS})
	epollErrors = errnos(unlisted, []syscall.Errno{unix.EBADF, unix.EEXIST, unix.EINVAL, unix.ELOOP, unix.ENOENT,
		unix.ENOMEM, unix.ENOSPC})
	acceptErrors = errnos(transient, badCall, unlisted, shortage[:4], network)
	closesIt     = []syscall.Errno{unix.EBADF, unix.EINVAL}
)

func ends(outcomes ...record.Outcome) []rule { return []rule{{nil, outcomes}} }

func with(first []rule, more ...rule) []rule { return append(more, first...) }

var (
	survives = ends(unaffected)
	// established are the rules for a read or a write of an established connection.
	established = []rule{{transient, survives[0].outcomes}, {shortage, []record.Outcome{record.Limit}},
		{network, []record.Outcome{record.Reset}}, {nil, []record.Outcome{record.Internal}}}
	// inHeader are the rules for reading a header: a connection that ends before it is none.
	inHeader = []rule{established[0], established[1], {network, []record.Outcome{record.Reset, record.Empty}},
		established[3]}
	// settled are the rules for bytes that are known to be there.
	settled = with(established, rule{[]syscall.Errno{unix.EAGAIN}, []record.Outcome{record.Internal}})
	// preparing are the rules for a call before connect(2). A shortage may pass.
	preparing = []rule{{shortage, []record.Outcome{unaffected, record.Limit}},
		{denied, []record.Outcome{record.Permission}},
		{[]syscall.Errno{unix.EAFNOSUPPORT}, []record.Outcome{record.BackendUnreachable}},
		{[]syscall.Errno{unix.EADDRNOTAVAIL}, []record.Outcome{record.SourcePortBusy}},
		{nil, []record.Outcome{record.Internal}}}
	// connecting are the rules for connect(2) and what follows it.
	connecting = []rule{{[]syscall.Errno{unix.EINTR, unix.EINPROGRESS}, []record.Outcome{unaffected}},
		{shortage, []record.Outcome{unaffected, record.Limit}},
		{denied, []record.Outcome{record.Permission}},
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

	"Poller":   {start: true, errors: errnos(unlisted, shortage[:4], []syscall.Errno{unix.EINVAL})},
	"Waker":    {start: true, errors: errnos(unlisted, shortage[:4], []syscall.Errno{unix.EINVAL, unix.ENODEV})},
	"Batch":    {start: true, errors: []syscall.Errno{unix.EAGAIN, unix.EFAULT, unix.EINVAL, unix.ENOMEM, unix.ENOSYS}},
	"BindPath": {start: true, errors: pathErrors},
	"Listen":   {start: true, errors: errnos(badCall, unlisted, []syscall.Errno{unix.EADDRINUSE, unix.EOPNOTSUPP})},

	"RefuseHandshakes": {drain: true, errors: optionErrors},
	"Duplicate":        {drain: true, errors: errnos(unlisted, []syscall.Errno{unix.EBADF, unix.EINVAL, unix.EMFILE})},

	"Socket": {start: true, errors: socketErrors, in: map[state][]rule{
		dialling: preparing, probing: diagnosed, diagnosing: diagnosed}},
	"SetOption": {start: true, errors: optionErrors, in: map[state][]rule{
		reading:  survives, // SO_OOBINLINE of a unix socket
		dialling: preparing,
		probing:  diagnosed, diagnosing: diagnosed, relaying: survives}},
	"Bind": {start: true, errors: bindErrors, in: map[state][]rule{probing: diagnosed,
		dialling: with(preparing, rule{[]syscall.Errno{unix.EACCES}, []record.Outcome{record.Permission, unaffected}})}}, // another port
	"SetClient": {errors: optionErrors, in: map[state][]rule{
		dialling: with(preparing, rule{[]syscall.Errno{unix.ENOPROTOOPT}, []record.Outcome{record.TOAUnattached}})}},
	"ClientState": {errors: errnos(badCall, unlisted, []syscall.Errno{unix.EOPNOTSUPP, unix.EPROTO, unix.ENOPROTOOPT,
		unix.ENOMEM}), in: map[state][]rule{dialling: { // it is asked again
		{[]syscall.Errno{unix.EOPNOTSUPP, unix.EPROTO, unix.ENOPROTOOPT, unix.EPERM},
			[]record.Outcome{unaffected, record.TOAUnattached}},
		{shortage, []record.Outcome{unaffected, record.Limit}},
		{nil, []record.Outcome{unaffected, record.Internal}}}}},
	"LocalAddr": {start: true, errors: nameErrors, in: map[state][]rule{
		reading:  survives,
		dialling: with(preparing, rule{nil, []record.Outcome{record.Internal, record.Limit, record.Permission, unaffected}})}},
	"HasSource": {errors: []syscall.Errno{unix.EMFILE}, in: map[state][]rule{
		dialling: ends(unaffected, record.Limit)}}, // it is not known whether an address or a port lacks

	"Accept": {errors: acceptErrors, drain: true, in: map[state][]rule{
		free:    {{closesIt, []record.Outcome{unserved}}, {nil, []record.Outcome{unaffected}}},
		reading: survives, closing: survives}},
	"Connect": {errors: errnos(bindErrors, network, []syscall.Errno{unix.EAFNOSUPPORT, unix.EALREADY, unix.EINPROGRESS,
		unix.EISCONN, unix.EPROTOTYPE, unix.EADDRINUSE}), in: map[state][]rule{
		dialling: connecting, probing: diagnosed, diagnosing: diagnosed}},
	"ConnectPath": {errors: errnos(bindErrors, pathErrors, []syscall.Errno{unix.ECONNREFUSED, unix.EPROTOTYPE}),
		in: map[state][]rule{dialling: connecting}},
	"SocketError": {errors: errnos(network, badCall), in: map[state][]rule{
		dialling: connecting, probing: diagnosed, diagnosing: diagnosed, relaying: established}},

	"Recv": {errors: recvErrors, in: map[state][]rule{
		reading: inHeader, closing: survives, relaying: established}},
	"Peek":    {errors: recvErrors, in: map[state][]rule{relaying: established}},
	"Discard": {errors: recvErrors, in: map[state][]rule{relaying: settled}},
	"Send": {errors: sendErrors, in: map[state][]rule{
		dialling: with(connecting, rule{append(transient, unix.ENOTCONN), []record.Outcome{unaffected}}), relaying: established}},
	"Batch.Recv": {errors: recvErrors, in: map[state][]rule{reading: inHeader, relaying: established}},
	"Batch.Send": {errors: sendErrors, in: map[state][]rule{relaying: established}},
	"Pipe": {errors: errnos(shortage[:4], unlisted, []syscall.Errno{unix.EFAULT, unix.EINVAL, unix.ENOPKG}),
		in: map[state][]rule{relaying: survives}},
	"Splice": {errors: errnos(recvErrors, []syscall.Errno{unix.ESPIPE}), in: map[state][]rule{
		relaying: with(established, rule{refusals[:5], []record.Outcome{unaffected}}, // it is copied from then on
			rule{refusals[5:], []record.Outcome{record.Reset, unaffected}})}},
	"ReadPipe": {errors: errnos(transient, badCall, []syscall.Errno{unix.EIO, unix.EISDIR}), in: map[state][]rule{relaying: settled}},
	"Shutdown": {errors: errnos(badCall, unlisted, []syscall.Errno{unix.ENOTCONN}), in: map[state][]rule{
		closing: survives, relaying: survives}},

	"Watch": {start: true, errors: epollErrors, in: map[state][]rule{
		reading: ends(record.Internal), dialling: preparing, probing: diagnosed, diagnosing: diagnosed}},
	"Rewatch": {errors: epollErrors, in: map[state][]rule{relaying: established}},
	"Wait": {errors: []syscall.Errno{unix.EINTR}, in: map[state][]rule{
		free: survives, reading: survives, closing: survives, dialling: survives, probing: survives,
		diagnosing: survives, relaying: survives}},
}
