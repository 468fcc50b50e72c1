package datagram

import (
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/record"
)

// endIdle ends a flow that was idle. If the backend reported an error and has not
// replied since, that error is the outcome.
func (w *worker) endIdle(f *flow) {
	switch f.lastError {
	case 0:
		w.endAs(f, record.OK, record.Timeout, f.noReplyReason())
	case unix.ECONNREFUSED:
		w.endAs(f, record.BackendRefused, record.Backend, f.lastError.Error())
	default:
		w.endAs(f, record.BackendUnreachable, record.Gateway, f.lastError.Error())
	}
}

// noReplyReason returns the reason for the log if a transparent flow got no reply.
// That is not an error: some protocols have no replies.
func (f *flow) noReplyReason() string {
	if !f.isTransparent() || f.packetsOut > 0 {
		return ""
	}
	return "no reply came"
}

// replace ends a flow that another one replaces.
func (w *worker) replace(f *flow, why string) {
	w.endAs(f, record.OK, record.Peer, why)
}

// endAs ends a flow with an outcome and reports it.
func (w *worker) endAs(f *flow, outcome record.Outcome, by record.Party, reason string) {
	if f.run != 0 {
		w.flushToBackends()
	}
	if len(f.replyHeader) > 0 {
		w.flushToPeer() // queued replies refer to the header in the flow
	}
	if f.bulk && f.fd >= 0 {
		lost, _ := w.kernel.Overflows(f.fd)
		w.count(f.listener, cause{ReplyQueueFull, ""}, int(lost))
	}
	f.list.tally.End(f.command, outcome, record.Relay, time.Duration(w.host.Now()-f.startedAt))
	w.report(f, outcome, by, reason)
	w.leave(f)
}

// report reports a finished flow.
func (w *worker) report(f *flow, outcome record.Outcome, by record.Party, reason string) {
	report := w.relay.config.Report
	if report == nil {
		return
	}
	r := &w.record
	*r = record.Connection{
		ID:           f.id,
		Datagram:     true,
		Forward:      f.listener.Listener.Name,
		Peer:         f.peer,
		Client:       f.caller().Client,
		Destination:  f.destination,
		Backend:      f.backend.Addr,
		Transparent:  f.isTransparent(),
		Version:      f.version,
		Command:      f.command,
		Outcome:      outcome,
		Phase:        record.Relay,
		By:           by,
		Reason:       reason,
		BytesIn:      f.bytesIn,
		BytesOut:     f.bytesOut,
		DatagramsIn:  f.packetsIn,
		DatagramsOut: f.packetsOut,
		Duration:     time.Duration(w.host.Now() - f.startedAt),
		Details:      f.details,
	}
	if f.source.IsValid() && f.source != f.client {
		r.Source = f.source
	}
	report(r)
}

// checkInterval is the time between two checks of the listeners.
const checkInterval = int64(time.Second)

// checkListeners counts the datagrams that the kernel dropped because the queue of
// a listener was full. It also re-enables GSO: the kernel may have refused it only
// for the path to one peer.
func (w *worker) checkListeners() {
	for _, ls := range w.listeners {
		if !ls.busy {
			continue
		}
		ls.busy, ls.noGSO = false, false
		w.count(ls, cause{ReceiveQueueFull, ""}, ls.overflown())
	}
}

var _ engine.Guest = (*worker)(nil)
