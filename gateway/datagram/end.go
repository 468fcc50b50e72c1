package datagram

import (
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/record"
)

// end ends a flow in the ordinary way: silence, or by's doing. What the backend
// reported last, if it has said nothing since, is how it ended.
func (w *worker) end(f *flow, by record.Party) {
	switch f.failure {
	case 0:
		w.endAs(f, record.OK, by, f.doubt())
	case unix.ECONNREFUSED:
		w.endAs(f, record.BackendRefused, record.Backend, f.failure.Error())
	default:
		w.endAs(f, record.BackendUnreachable, record.Gateway, f.failure.Error())
	}
}

// doubt says what may be wrong with a flow that was transparent and had no
// reply. It may be right as well: not every protocol has replies.
func (f *flow) doubt() string {
	if !f.source.IsValid() || f.packetsOut > 0 {
		return ""
	}
	return "no reply came"
}

// replaced ends a flow in whose place another comes.
func (w *worker) replaced(f *flow, why string) {
	w.endAs(f, record.OK, record.Peer, why)
}

// endAs ends a flow and reports it.
func (w *worker) endAs(f *flow, outcome record.Outcome, by record.Party, reason string) {
	if f.run != 0 {
		w.sendForth()
	}
	if len(f.header) > 0 {
		w.flushBack() // the header is kept in the flow
	}
	if f.bulk && f.fd >= 0 {
		w.count(f.front, refusal{ReplyQueueFull, ""}, int(w.kernel.Overflows(f.fd)))
	}
	f.lane.tally.End(outcome, record.Relay, time.Duration(w.host.Now()-f.began))
	w.tell(f, outcome, by, reason)
	w.leave(f)
}

// tell reports a finished flow.
func (w *worker) tell(f *flow, outcome record.Outcome, by record.Party, reason string) {
	report := w.relay.config.Report
	if report == nil {
		return
	}
	r := &w.report
	*r = record.Connection{
		ID:           f.id,
		Datagram:     true,
		Forward:      f.front.Listener.Name,
		Peer:         f.peer,
		Client:       f.caller().Client,
		Destination:  f.destination,
		Backend:      f.backend.Addr,
		Transparent:  f.source.IsValid(),
		Version:      f.version,
		Outcome:      outcome,
		Phase:        record.Relay,
		By:           by,
		Reason:       reason,
		BytesIn:      f.bytesIn,
		BytesOut:     f.bytesOut,
		DatagramsIn:  f.packetsIn,
		DatagramsOut: f.packetsOut,
		Duration:     time.Duration(w.host.Now() - f.began),
		Details:      f.details,
	}
	if f.source.IsValid() && f.source != f.client {
		r.Source = f.source
	}
	report(r)
}

// watchEvery is how often listeners are looked at.
const watchEvery = int64(time.Second)

// watchFronts counts what the kernel dropped because a listener's queue was full,
// and gives trains another try: where they were refused, it may have been for the
// way to one peer.
func (w *worker) watchFronts() {
	for _, fr := range w.fronts {
		if !fr.busy {
			continue
		}
		fr.busy, fr.noTrains = false, false
		n := w.kernel.Overflows(fr.fd)
		w.count(fr, refusal{ReceiveQueueFull, ""}, int(n-fr.overflows))
		fr.overflows = n
	}
}

var _ engine.Guest = (*worker)(nil)
